"""A place without processes, for tests of everything above: same promises as a real one, same conformance suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from overspill.errors import OverspillError, UnrunnableError
from overspill_agent.backends.base import Demand, Launch
from overspill_agent.capacity import Capacity, Slot
from overspill_agent.runs import Resources, Seen, Sighting, Verdict

Attempt = tuple[str, int]
MACHINE = "fake"


@dataclass(slots=True)
class World:
    """What outlives the agent: the attempts that were started, and which of them live.

    Attributes:
        launches: every launch that made a process, in order.
        alive: the attempts that live.
        lost: the attempts that are out of sight.
        missing_images: names of images that the site offers and does not have.
        verdicts: what is known of an attempt's end, or of why it never will end well.
        resources: what there is.
        refusals: by run, what its starts raise before anything happens, until it is taken away.
    """

    resources: Resources = field(default_factory=lambda: Resources(cpus=8, memory_mib=16384))
    launches: list[Launch] = field(default_factory=list)
    alive: set[Attempt] = field(default_factory=set)
    lost: set[Attempt] = field(default_factory=set)
    missing_images: set[str] = field(default_factory=set)
    verdicts: dict[Attempt, Verdict] = field(default_factory=dict)
    refusals: dict[str, OverspillError] = field(default_factory=dict)

    def was_started(self, attempt: Attempt) -> bool:
        return any((launch.run_id, launch.attempt) == attempt for launch in self.launches)


class FakeBackend:
    """`Backend` over a `World`; make another over the same world for an agent that has restarted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._callback: Callable[[str], None] = lambda _run_id: None

    async def open(self) -> None:
        await asyncio.sleep(0)

    def capacity(self) -> Capacity:
        resources = self._world.resources
        return Capacity((Slot(MACHINE, resources, resources),))

    async def check(self, demand: Demand) -> None:
        await asyncio.sleep(0)
        if demand.image is not None and demand.image.name in self._world.missing_images:
            raise UnrunnableError(f"the image {demand.image.name} is missing at this site")

    async def start(self, launch: Launch) -> None:
        await asyncio.sleep(0)
        if refusal := self._world.refusals.get(launch.run_id):
            raise refusal
        attempt = (launch.run_id, launch.attempt)
        if not self._world.was_started(attempt):
            self._world.launches.append(launch)
            self._world.alive.add(attempt)

    async def stop(self, run_id: str, attempt: int) -> None:
        await asyncio.sleep(0)
        self.die(run_id, attempt)

    async def observe(self, run_id: str, attempt: int) -> Sighting:
        await asyncio.sleep(0)
        if not self._world.was_started((run_id, attempt)):
            return Sighting(Seen.NOTHING)
        seen = Seen.ALIVE if (run_id, attempt) in self._world.alive else Seen.GONE
        if (run_id, attempt) in self._world.lost:
            seen = Seen.LOST
        verdict = self._world.verdicts.get((run_id, attempt))
        return Sighting(seen, verdict, remote_id=f"fake-{run_id}-{attempt}", machine=MACHINE)

    async def forget(self, run_id: str) -> None:
        await asyncio.sleep(0)
        self._world.launches = [launch for launch in self._world.launches if launch.run_id != run_id]

    async def run_ids(self) -> frozenset[str]:
        await asyncio.sleep(0)
        return frozenset(launch.run_id for launch in self._world.launches)

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callback = callback

    async def close(self) -> None:
        self._callback = lambda _run_id: None

    def die(self, run_id: str, attempt: int) -> None:
        """End the attempt's process, as it might by itself."""
        if (run_id, attempt) in self._world.alive:
            self._world.alive.discard((run_id, attempt))
            self._callback(run_id)
