"""A relay that looks after virtual nodes: a real agent's service that goes and comes, a Slurm that is a dictionary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from overspill_sidecar.config import RelayConfig
from overspill_sidecar.health.wanted import failing
from overspill_sidecar.relay.stranded import Strandings
from tests.integration.sidecar_agent import LEASE_ID
from tests.integration.sidecar_road import ADMIN_COMMENT, Road, diverted_job, eventually, road
from tests.unit.sidecar_cluster import job

_OTHER_COMMENT = '{"site": "note"}'


@pytest.fixture(name="way")
async def _way(tmp_path: Path) -> AsyncIterator[Road]:
    async with road(tmp_path, *(diverted_job(number) for number in range(7, 12))) as way:
        yield way


def _reason(way: Road) -> str:
    node = way.view.nodes_by_name["ovs1"]
    return node.reason if node.is_drained else ""


async def test_a_site_that_answers_again_is_told_at_once_that_it_was_heard(tmp_path: Path) -> None:
    """Else it could end the first run, because the lease of this relay is over, until it is asked the next time."""
    async with road(tmp_path, poll_s=60.0) as way:
        await eventually(lambda: way.agent.confirmed_lease_id == LEASE_ID, "the answer is confirmed", deadline_s=30.0)


async def test_the_nodes_of_a_site_that_goes_are_drained_and_used_again_when_it_is_back(way: Road) -> None:
    async with way.nodes_kept():
        await eventually(lambda: way.site.view(time.monotonic()).is_reachable, "the site is heard")
        await way.agent.stop()
        await eventually(lambda: _reason(way).startswith("overspill: site-a unreachable since 20"), "the drain")
        await way.agent.start()
        await eventually(lambda: not _reason(way), "the node is used again")


async def test_the_nodes_of_a_site_that_its_operator_has_drained_are_drained_and_say_why(way: Road) -> None:
    async with way.nodes_kept():
        way.agent.takes_no_runs = "new disks\nReason=none " + "x" * 200
        await eventually(lambda: _reason(way), "the drain")
        assert _reason(way) == f"overspill: site-a takes no new runs: new disksReason=none {'x' * 79}"
        assert way.site.view(time.monotonic()).is_reachable
        way.agent.takes_no_runs = ""
        await eventually(lambda: not _reason(way), "the node is used again")


async def test_a_relay_that_restarts_undrains_what_an_earlier_one_has_drained(way: Road) -> None:
    await way.view.drain(["ovs1"], "overspill: site-a unreachable since 2026-11-21T13:00:00")
    async with way.nodes_kept():
        await eventually(lambda: not _reason(way), "the node is used again")


async def test_a_relay_that_stops_leaves_nodes_as_they_are(way: Road) -> None:
    async with way.nodes_kept():
        await way.agent.stop()
        await eventually(lambda: _reason(way), "the drain")
    assert _reason(way).startswith("overspill: site-a unreachable")


async def test_a_node_that_an_admin_has_drained_stays_so_through_an_outage(way: Road) -> None:
    await way.view.drain(["ovs1"], "kernel update")
    way.view.nodes_by_name["ovs2"] = replace(way.view.nodes_by_name["ovs1"], name="ovs2", is_drained=False, reason="")
    partition = way.view.partitions["overspill"]
    way.view.partitions["overspill"] = replace(partition, nodes=("ovs1", "ovs2"))
    object.__setattr__(way.site, "config", way.site.config.model_copy(update={"nodes": ""}))
    async with way.nodes_kept():
        await way.agent.stop()
        await eventually(lambda: way.view.nodes_by_name["ovs2"].is_drained, "the other node's drain")
        await way.agent.start()
        await eventually(lambda: not way.view.nodes_by_name["ovs2"].is_drained, "the other node is used again")
    assert _reason(way) == "kernel update"


async def test_a_slurm_that_does_not_answer_is_asked_again_later(way: Road) -> None:
    async with way.nodes_kept():
        await eventually(lambda: way.watch.picture, "a picture of the cluster")
        way.view.is_answering = False
        await way.agent.stop()
        await asyncio.sleep(1.5)  # the outage's own length: long enough for a drain that Slurm refuses
        way.view.is_answering = True
        await eventually(lambda: _reason(way).startswith("overspill: site-a unreachable"), "the drain")


async def test_a_site_that_fails_its_jobs_is_drained_until_the_next_try(way: Road) -> None:
    async with way.nodes_kept():
        for number in range(7, 10):
            await way.opened(number)
            await eventually(lambda: len(way.agent.runs) == number - 6, "the run")  # noqa: B023 - waits here
            await list(way.agent.runs.values())[-1].end("REJECTED", reason="no such image")
        await eventually(lambda: _reason(way).startswith("overspill: site-a fails its jobs (3 of 3)"), "the drain")
        assert ", next try at 20" in _reason(way)


async def test_scripts_that_fail_say_nothing_against_their_site(way: Road) -> None:
    async with way.nodes_kept():
        for number in range(7, 12):
            proxy = await way.opened(number)
            await eventually(lambda: len(way.agent.runs) == number - 6, "the run")  # noqa: B023 - waits here
            await list(way.agent.runs.values())[-1].end("COMPLETED", exit_code=1, started_at_ms=1)
            assert (await proxy.end())["exit_code"] == 1
        assert way.health.site("site-a").tally == (0, 0)
        assert not _reason(way)


async def test_a_failing_site_rests_on_though_the_relay_restarts(way: Road) -> None:
    await way.view.drain(["ovs1"], failing("site-a", (3, 3), time.time() + 4).reason)
    async with way.nodes_kept():
        await eventually(lambda: way.site.view(time.monotonic()).is_reachable, "the site is heard")
        await asyncio.sleep(1.5)  # a site that is merely reachable would be used by now
        assert "fails its jobs" in _reason(way)
        await eventually(lambda: not _reason(way), "the next try")


async def test_a_node_that_cannot_hand_over_is_tried_again_and_rests_longer_each_time(way: Road) -> None:
    reason = "overspill: cannot hand over: /opt/overspill/proxy: No such file or directory"
    way.health = type(way.health)(first_pause_s=1.0)
    async with way.nodes_kept():
        rests = []
        for _ in range(2):
            await way.view.drain(["ovs1"], reason)
            began = time.monotonic()
            await eventually(lambda: not _reason(way), "the next try")
            rests.append(time.monotonic() - began)
        assert rests[0] >= 1.0
        assert rests[1] >= 2.0


async def test_a_submit_that_the_site_cannot_run_speaks_against_it(way: Road) -> None:
    way.agent.refusal = grpc.StatusCode.FAILED_PRECONDITION
    for number in range(7, 10):
        await way.opened(number)
        await eventually(lambda: way.view.jobs[number].restart_count == 1, "home")  # noqa: B023 - waits here
    assert way.health.site("site-a").tally == (3, 3)


async def test_jobs_that_could_only_start_at_a_dead_site_go_home_and_others_stay(way: Road) -> None:
    trail = diverted_job().trail
    pending = {"user_id": 0, "trail": trail, "admin_comment": ADMIN_COMMENT}
    for each in (
        job(20, partitions=("overspill",), reason="ReqNodeNotAvail, UnavailableNodes:ovs1", **pending),
        job(21, partitions=("batch", "overspill"), **pending),
        job(22, partitions=("overspill",), admin_comment=_OTHER_COMMENT),
        job(23, partitions=("overspill",), **{**pending, "reason": "JobHeldUser"}),
    ):
        way.view.jobs[each.slurm_job_id] = each
    await way.view.drain(["ovs1"], "overspill: site-a unreachable since 2026-11-21T13:00:00")
    strandings = Strandings(way.watch, way.view, [way.site], RelayConfig(unreachable_grace_s=10))
    await strandings.step(await way.view.snapshot(), 0.0)
    await strandings.step(await way.view.snapshot(), 9.0)
    assert way.view.jobs[20].partitions == ("overspill",)
    await strandings.step(await way.view.snapshot(), 10.0)
    assert way.view.jobs[20].partitions == ("batch",)
    assert '"refused_by":["site-a"]' in way.view.jobs[20].admin_comment
    assert [way.view.jobs[number].partitions for number in (21, 22, 23)] == [
        ("batch", "overspill"),
        ("overspill",),
        ("overspill",),
    ]


async def test_a_site_that_comes_back_in_time_keeps_its_jobs(way: Road) -> None:
    way.view.jobs[20] = job(20, partitions=("overspill",), trail=diverted_job().trail, admin_comment=ADMIN_COMMENT)
    strandings = Strandings(way.watch, way.view, [way.site], RelayConfig(unreachable_grace_s=10))
    for now, is_up in ((0.0, False), (9.0, True), (10.0, False), (19.0, False)):
        await (way.view.undrain(["ovs1"]) if is_up else way.view.drain(["ovs1"], "x"))
        await strandings.step(await way.view.snapshot(), now)
    assert way.view.jobs[20].partitions == ("overspill",)
