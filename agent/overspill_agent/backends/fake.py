"""A place without processes, for tests of everything above: same promises as a real one, same conformance suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from overspill.errors import OverspillError, UnavailableError, UnrunnableError
from overspill_agent.backends.base import Demand, Launch
from overspill_agent.backends.fake_runner import FakeRunner
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
        resources: what its one slot has.
        slots: what there is instead, where that is not one slot.
        refusals: by run, what its starts raise before anything happens, until it is taken away.
        has_runners: each start makes a `FakeRunner`; else nothing acts, and attempts live until they are stopped.
        runners: those that act, and their tasks.
        devices: the GPUs, and the attempts that have them.
        is_in_sight: the verbs can see it.
        step: called between any two changes; what it raises ends the agent there.
    """

    resources: Resources = field(default_factory=lambda: Resources(cpus=8, memory_mib=16384))
    launches: list[Launch] = field(default_factory=list)
    alive: set[Attempt] = field(default_factory=set)
    lost: set[Attempt] = field(default_factory=set)
    missing_images: set[str] = field(default_factory=set)
    verdicts: dict[Attempt, Verdict] = field(default_factory=dict)
    slots: tuple[Slot, ...] = ()
    refusals: dict[str, OverspillError] = field(default_factory=dict)
    has_runners: bool = False
    runners: dict[Attempt, tuple[FakeRunner, asyncio.Task[None]]] = field(default_factory=dict)
    devices: dict[str, Attempt | None] = field(default_factory=dict)
    is_in_sight: bool = True
    step: Callable[[], None] = lambda: None

    def was_started(self, attempt: Attempt) -> bool:
        return any((launch.run_id, launch.attempt) == attempt for launch in self.launches)

    def make_runner(self, launch: Launch, on_end: Callable[[], None]) -> None:
        """Give the attempt its GPUs, and a runner that frees them at its end."""
        attempt = (launch.run_id, launch.attempt)
        free = [device for device, holder in self.devices.items() if holder is None]
        own = tuple(free[: launch.demand.resources.gpus])
        self.devices.update(dict.fromkeys(own, attempt))
        runner = FakeRunner(launch, own)
        task = asyncio.create_task(runner.run(), name=f"fake runner {launch.run_id}")
        self.runners[attempt] = runner, task
        task.add_done_callback(lambda _task: self._take_back(attempt, on_end))

    def _take_back(self, attempt: Attempt, on_end: Callable[[], None]) -> None:
        self.runners.pop(attempt, None)
        self.devices.update({device: None for device, holder in self.devices.items() if holder == attempt})
        on_end()


class FakeBackend:
    """`Backend` over a `World`; make another over the same world for an agent that has restarted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._callback: Callable[[str], None] = lambda _run_id: None

    async def open(self) -> None:
        await asyncio.sleep(0)

    def capacity(self) -> Capacity:
        resources = self._world.resources
        return Capacity(self._world.slots or (Slot(MACHINE, resources, resources),))

    async def check(self, demand: Demand) -> None:
        await asyncio.sleep(0)
        if demand.image is not None and demand.image.name in self._world.missing_images:
            raise UnrunnableError(f"the image {demand.image.name} is missing at this site")
        if demand.constraint:
            raise UnrunnableError(f"this site has no machine with the feature {demand.constraint!r}")

    async def start(self, launch: Launch) -> None:
        await self._look()
        if refusal := self._world.refusals.get(launch.run_id):
            raise refusal
        attempt = (launch.run_id, launch.attempt)
        if self._world.was_started(attempt):
            return
        self._world.step()
        self._world.launches.append(launch)
        self._world.alive.add(attempt)
        if self._world.has_runners:
            self._world.make_runner(launch, lambda: self.die(*attempt))
        self._world.step()

    async def stop(self, run_id: str, attempt: int) -> None:
        await self._look()
        self._world.step()
        if (run_id, attempt) in self._world.runners:
            self._world.runners[run_id, attempt][1].cancel()
        else:
            self.die(run_id, attempt)
        self._world.step()

    async def observe(self, run_id: str, attempt: int) -> Sighting:
        await self._look()
        if not self._world.was_started((run_id, attempt)):
            return Sighting(Seen.NOTHING)
        seen = Seen.ALIVE if (run_id, attempt) in self._world.alive else Seen.GONE
        if (run_id, attempt) in self._world.lost:
            seen = Seen.LOST
        verdict = self._world.verdicts.get((run_id, attempt))
        return Sighting(seen, verdict, remote_id=f"fake-{run_id}-{attempt}", machine=MACHINE)

    async def forget(self, run_id: str) -> None:
        await self._look()
        self._world.step()
        self._world.launches = [launch for launch in self._world.launches if launch.run_id != run_id]
        self._world.step()

    async def run_ids(self) -> frozenset[str]:
        await self._look()
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

    async def _look(self) -> None:
        """Turn to the world.

        Raises:
            UnavailableError: it is out of sight.
        """
        await asyncio.sleep(0)
        if not self._world.is_in_sight:
            raise UnavailableError("the fake place is out of sight")
