"""What a site has, slot by slot, and what is left of it once its runs have their places. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from overspill_agent.runs import Resources


@dataclass(frozen=True, slots=True)
class Slot:
    """One machine, or part of one: a run must fit whole into it.

    Attributes:
        name: unique in its backend; `Sighting.machine` names it.
        size: all that it has.
        usable: what would be free in it if none of this agent's runs were there: others may share the machine.
        gpu_type: of which type its GPUs are, in lower case; empty: not told.
    """

    name: str
    size: Resources
    usable: Resources
    gpu_type: str = ""

    def suits(self, holding: Holding) -> bool:
        """Tell whether it has the right type of GPUs, if it is to have any."""
        return not (holding.resources.gpus and holding.gpu_type) or holding.gpu_type == self.gpu_type


@dataclass(frozen=True, slots=True)
class Holding:
    """What one run has, or has been promised; `machine` is empty while nobody knows where."""

    resources: Resources
    gpu_type: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A backend's word of what it has.

    Attributes:
        slots: everything that runs can be on, be it in use or not.
        features: the words of --constraint that it understands.
        has_queue: it keeps runs that find no room until there is some; then this agent need not.
    """

    slots: tuple[Slot, ...] = ()
    features: frozenset[str] = frozenset()
    has_queue: bool = False

    @property
    def total(self) -> Resources:
        return sum((slot.size for slot in self.slots), Resources())

    def can_ever_hold(self, wanted: Holding) -> bool:
        return any(slot.suits(wanted) and wanted.resources.fits_in(slot.size) for slot in self.slots)


def left(capacity: Capacity, holdings: Iterable[Holding]) -> tuple[Slot, ...]:
    """Return the slots with what is free in each, after every run has its place: its own, or else one that suits.

    Those without a place of their own are placed largest first, each where it leaves least. What fits nowhere waits and
    takes nothing. Runs that are alike are placed together: this is done for each submission, with thousands of runs.
    """
    free = {slot.name: slot for slot in capacity.slots}
    homeless: Counter[Holding] = Counter()
    for holding, count in Counter(holdings).items():
        if holding.machine in free:
            free[holding.machine] = _without(free[holding.machine], holding.resources * count)
        else:
            homeless[replace(holding, machine="")] += count
    # Of two alike, the one that not every slot suits goes first.
    by_need = sorted(homeless, key=lambda holding: (_weight(holding.resources), holding.gpu_type), reverse=True)
    for holding in by_need:
        _place(free, holding, homeless[holding])
    return tuple(free.values())


def _place(free: dict[str, Slot], holding: Holding, count: int) -> None:
    """Take from `free` what so many runs need that are alike, for as many of them as there is room."""
    fitting = [slot for slot in free.values() if slot.suits(holding) and holding.resources.fits_in(slot.usable)]
    for slot in sorted(fitting, key=lambda slot: _weight(slot.usable)):
        here = min(count, slot.usable.times(holding.resources))
        free[slot.name] = _without(slot, holding.resources * here)
        count -= here
        if count == 0:
            return


def has_room(slots: Iterable[Slot], wanted: Holding) -> bool:
    """Tell whether one of the slots, as `left` returns them, can take it now."""
    return any(slot.suits(wanted) and wanted.resources.fits_in(slot.usable) for slot in slots)


def largest(slots: Iterable[Slot]) -> Resources:
    """Return the largest single run that could start now, in a site whose slots are `left`."""
    return max((slot.usable for slot in slots), key=_weight, default=Resources())


def largest_first(slots: Iterable[Slot]) -> list[Slot]:
    """Return the slots, those with most free first."""
    return sorted(slots, key=lambda slot: _weight(slot.usable), reverse=True)


def grouped(slots: Iterable[Slot]) -> list[tuple[int, Slot]]:
    """Return the slots that are alike, with how many there are of each kind; those with most free first."""
    kinds = Counter(replace(slot, name="") for slot in slots)
    return [(kinds[slot], slot) for slot in largest_first(kinds)]


def _without(slot: Slot, taken: Resources) -> Slot:
    return replace(slot, usable=slot.usable.less(taken))


def _weight(resources: Resources) -> tuple[int, int, int]:
    """Order by what is scarcest: GPUs, then CPUs, then memory."""
    return resources.gpus, resources.cpus, resources.memory_mib
