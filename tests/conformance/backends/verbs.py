"""The cases of the verbs: a test's hand is in the loop's place."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from overspill.errors import AdminError, OverspillError, TransientError, UnrunnableError
from overspill_agent.backends.base import Demand
from overspill_agent.capacity import Holding
from overspill_agent.config.clusters import ClusterSection
from overspill_agent.registry import LiveRun
from overspill_agent.runs import Resources, Seen
from overspill_agent.service.admission import check_size
from tests.conformance.backends import scripts
from tests.conformance.backends.site import SMALL, Site, until


async def until_seen(site: Site, live: LiveRun, seen: Seen) -> None:
    async def is_seen() -> bool:
        return (await site.backend.observe(live.run.run_id, live.run.attempt)).seen is seen

    await until(f"the run is seen as {seen}", is_seen)


async def started(site: Site) -> LiveRun:
    """Return a run whose script waits."""
    live = await site.accept(scripts.WAITING)
    await site.backend.start(await site.prepare(live))
    await site.until_said(live, "ready")
    return live


async def until_forgotten(site: Site, live: LiveRun) -> None:
    """Stop a run and have it forgotten; fail if anything of it stays."""
    await site.backend.stop(live.run.run_id, live.run.attempt)

    async def is_dead() -> bool:
        return (await site.backend.observe(live.run.run_id, live.run.attempt)).seen in (Seen.GONE, Seen.NOTHING)

    await until("nothing of the run lives", is_dead)

    async def is_forgotten() -> bool:
        with suppress(TransientError):
            await site.backend.forget(live.run.run_id)
            return not await site.place.leftovers()
        return False

    await until("nothing is left of the run", is_forgotten)
    assert live.run.run_id not in await site.backend.run_ids()


class Verbs:
    """What each verb promises by itself."""

    async def test_what_was_never_started_is_seen_as_nothing_and_can_be_stopped_and_forgotten(self, hand: Site) -> None:
        live = await hand.accept(scripts.WAITING)
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.NOTHING
        await hand.backend.stop(live.run.run_id, 1)
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.NOTHING
        await hand.backend.forget(live.run.run_id)
        assert await hand.backend.run_ids() == frozenset()
        assert await hand.place.leftovers() == []

    async def test_a_run_is_alive_until_it_ends_by_itself_and_its_end_is_told(self, hand: Site) -> None:
        live = await hand.accept(scripts.exiting(0))
        await hand.backend.start(await hand.prepare(live))
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
        await hand.ending(live)
        await until_seen(hand, live, Seen.GONE)

        async def is_told() -> bool:
            return live.run.run_id in hand.told

        await until("the end is told", is_told)
        sighting = await hand.backend.observe(live.run.run_id, 1)
        assert sighting.machine in {slot.name for slot in hand.backend.capacity().slots}

    async def test_starts_of_one_attempt_at_once_and_later_start_it_once(self, hand: Site) -> None:
        live = await hand.accept(scripts.WAITING)
        launch = await hand.prepare(live)
        await asyncio.gather(hand.backend.start(launch), hand.backend.start(launch))
        await hand.until_said(live, "ready")
        await hand.backend.start(launch)
        await hand.backend.stop(live.run.run_id, 1)
        await until_seen(hand, live, Seen.GONE)
        await hand.backend.start(launch)
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.GONE
        assert hand.starts_of(live) == 1

    async def test_two_runs_started_at_once_are_two(self, hand: Site) -> None:
        both = [await hand.accept(scripts.WAITING), await hand.accept(scripts.WAITING)]
        launches = [await hand.prepare(live) for live in both]
        await asyncio.gather(*(hand.backend.start(launch) for launch in launches))
        for live in both:
            await hand.until_said(live, "ready")
        assert await hand.backend.run_ids() == {live.run.run_id for live in both}
        await hand.backend.stop(both[0].run.run_id, 1)
        await until_seen(hand, both[0], Seen.GONE)
        assert (await hand.backend.observe(both[1].run.run_id, 1)).seen is Seen.ALIVE
        assert hand.place.processes(both[1].run.run_id) > 0

    async def test_a_stop_kills_all_and_may_be_repeated(self, hand: Site) -> None:
        live = await hand.accept(scripts.STUBBORN)
        await hand.backend.start(await hand.prepare(live))
        await hand.until_said(live, "ready")
        assert hand.place.processes(live.run.run_id) >= scripts.STUBBORN_PROCESSES
        await asyncio.gather(*(hand.backend.stop(live.run.run_id, 1) for _ in range(2)))
        await until_seen(hand, live, Seen.GONE)
        assert hand.place.processes(live.run.run_id) == 0
        await hand.backend.stop(live.run.run_id, 1)
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.GONE

    async def test_a_forgotten_run_leaves_nothing_even_if_no_agent_knows_it(self, hand: Site) -> None:
        live = await started(hand)
        await hand.restart()
        assert await hand.backend.run_ids() == {live.run.run_id}
        await until_forgotten(hand, live)
        await hand.backend.forget(live.run.run_id)
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.NOTHING

    async def test_an_image_that_is_not_there_is_refused_before_the_run_is_taken(self, hand: Site) -> None:
        with pytest.raises(UnrunnableError):
            await hand.backend.check(Demand(SMALL, image=hand.place.unknown_image))
        await hand.backend.check(Demand(SMALL, image=hand.place.image))

    async def test_a_feature_that_no_machine_has_is_refused_before_the_run_is_taken(self, hand: Site) -> None:
        with pytest.raises(UnrunnableError):
            await hand.backend.check(Demand(SMALL, constraint="nosuchfeature", image=hand.place.image))

    async def test_what_is_larger_than_any_slot_is_refused_before_the_run_is_taken(self, hand: Site) -> None:
        capacity = hand.backend.capacity()
        assert capacity.can_ever_hold(Holding(SMALL))
        for huge in (Resources(cpus=100_000), Resources(cpus=1, memory_mib=1 << 40), Resources(cpus=1, gpus=100_000)):
            with pytest.raises(UnrunnableError):
                check_size(Holding(huge), capacity, ClusterSection())

    async def test_gpus_are_offered_as_they_are_there(self, hand: Site) -> None:
        capacity = hand.backend.capacity()
        assert capacity.total.gpus == hand.place.expects.gpus
        assert capacity.can_ever_hold(Holding(Resources(cpus=1, gpus=1))) is (hand.place.expects.gpus > 0)
        assert not capacity.can_ever_hold(Holding(Resources(cpus=1, gpus=1), gpu_type="nosuchtype"))

    async def test_who_cannot_see_says_so_and_never_that_nothing_is_there(self, hand: Site) -> None:
        live = await started(hand)
        async with hand.place.out_of_sight():
            for verb in (
                hand.backend.observe(live.run.run_id, 1),
                hand.backend.run_ids(),
                hand.backend.stop(live.run.run_id, 1),
            ):
                with pytest.raises((TransientError, AdminError)):
                    await verb
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
        assert hand.starts_of(live) == 1

    async def test_what_cannot_be_started_now_is_not_started_later_by_itself(self, hand: Site) -> None:
        live = await hand.accept(scripts.WAITING)
        launch = await hand.prepare(live)
        async with hand.place.out_of_sight():
            with pytest.raises(OverspillError):
                await hand.backend.start(launch)
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.NOTHING
        assert hand.starts_of(live) == 0
