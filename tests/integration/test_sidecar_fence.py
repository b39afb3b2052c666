"""A job whose attempt is over at home while its site cannot be told: nothing starts before the old run is dead."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from overspill_sidecar.cluster import Job
from tests.integration.sidecar_road import Road, diverted_job, eventually, road


def _requeue(way: Road, **changes: Any) -> None:
    """Do to the job what Slurm does when its node fails: a new attempt, two minutes later."""
    begin = int(time.time()) + 20
    pending = {"state": "PENDING", "reason": "BeginTime", "batch_host": "", "nodes": "", "start_time_s": begin}
    way.view.jobs[7] = replace(way.view.jobs[7], restart_count=1, **{**pending, **changes})


def _started_long_ago() -> Job:
    """Return a job that an earlier relay may have submitted."""
    return diverted_job(start_time_s=int(time.time()) - 600)


def _is_put_off(way: Road) -> bool:
    job = way.view.jobs[7]
    return (job.start_time_s or 0) > time.time() + 60 and job.trail is not None and job.trail.unfenced_at == "site-a"


async def _lose_proxy_and_site(way: Road) -> None:
    proxy = await way.running()
    await way.agent.stop()
    proxy.close()


async def test_the_next_attempt_waits_until_the_site_has_stopped_the_old_run(tmp_path: Path) -> None:
    async with road(tmp_path) as way:
        await _lose_proxy_and_site(way)
        _requeue(way)
        await eventually(lambda: _is_put_off(way), "the start is put off")
        await way.agent.start()
        await eventually(lambda: way.agent.run.stop_reason, "the old run is stopped")
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]


async def test_the_next_attempt_starts_when_slurm_meant_it_to_once_the_old_run_is_dead(tmp_path: Path) -> None:
    async with road(tmp_path) as way:
        await _lose_proxy_and_site(way)
        _requeue(way)
        meant = way.view.jobs[7].start_time_s or 0
        await eventually(lambda: _is_put_off(way), "the start is put off")
        await way.agent.start()
        await eventually(lambda: abs((way.view.jobs[7].start_time_s or 0) - meant) <= 1, "the start is as it was")


async def test_a_start_that_somebody_has_put_later_stays(tmp_path: Path) -> None:
    async with road(tmp_path) as way:
        await _lose_proxy_and_site(way)
        _requeue(way)
        await eventually(lambda: _is_put_off(way), "the start is put off")
        tomorrow = int(time.time()) + 86_400
        way.view.jobs[7] = replace(way.view.jobs[7], start_time_s=tomorrow)
        await way.agent.start()
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]
        assert way.view.jobs[7].start_time_s == tomorrow


async def test_a_relay_that_restarts_goes_on_putting_off(tmp_path: Path) -> None:
    async with road(tmp_path) as way:
        await _lose_proxy_and_site(way)
        await eventually(lambda: way.view.jobs[7].trail.unfenced_at, "the job is marked")  # type: ignore[union-attr]
        await way.stop_relay()
        _requeue(way)
        await way.restart_relay()
        await eventually(lambda: _is_put_off(way), "the start is put off")
        await way.agent.start()
        await eventually(lambda: way.agent.run.stop_reason, "the old run is stopped")
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]


async def test_what_happened_while_no_relay_was_there_is_in_doubt_until_the_site_answers(tmp_path: Path) -> None:
    """A power cut at home takes relay, proxies and slurmctld at once; the way to the site comes back last."""
    async with road(tmp_path, is_agent_up=False) as way:
        await way.stop_relay()
        _requeue(way)
        await way.restart_relay()
        await eventually(lambda: _is_put_off(way), "the start is put off")
        await way.agent.start()
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]


async def test_a_site_that_has_revoked_the_certificate_has_stopped_nothing(tmp_path: Path) -> None:
    async with road(tmp_path) as way:
        proxy = await way.running()
        way.agent.has_revoked = True
        proxy.close()
        _requeue(way)
        await eventually(lambda: _is_put_off(way), "the start is put off")
        way.agent.has_revoked = False
        await eventually(lambda: way.agent.run.stop_reason, "the old run is stopped")
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]


async def test_a_job_that_runs_at_the_site_does_not_go_home_for_a_refused_submit(tmp_path: Path) -> None:
    async with road(tmp_path, _started_long_ago(), grace_s=0.0) as way:
        await way.running()
        await way.stop_relay()
        way.agent.refusal = grpc.StatusCode.PERMISSION_DENIED
        await way.restart_relay()
        proxy = await way.opened()
        await asyncio.sleep(1.0)
        assert way.view.jobs[7].state == "RUNNING"
        way.agent.refusal = None
        await way.agent.run.end(exit_code=3)
        assert await proxy.end() == {"exit_code": 3}


async def test_a_job_that_may_run_at_a_site_that_refuses_us_goes_home_once_the_lease_is_over(tmp_path: Path) -> None:
    async with road(tmp_path, _started_long_ago(), grace_s=0.0, lease_s=2, lease_margin_s=1.0) as way:
        await way.running()
        await way.stop_relay()
        way.agent.has_revoked = True
        await way.restart_relay()
        await way.opened()
        await asyncio.sleep(1.0)
        assert way.view.jobs[7].state == "RUNNING"
        await eventually(lambda: way.view.jobs[7].restart_count == 1, "home")


async def test_an_attempt_that_slurm_started_while_no_relay_was_there_waits_for_the_end_of_the_one_before(
    tmp_path: Path,
) -> None:
    async with road(tmp_path) as way:
        proxy = await way.running()
        await way.stop_relay()
        proxy.close()
        first = way.agent.run
        way.view.jobs[7] = replace(way.view.jobs[7], restart_count=1)
        await way.restart_relay()
        await way.opened(restart_count=1)
        await eventually(lambda: len(way.agent.runs) == 2, "the next attempt")
        assert first.ended is not None


async def test_a_restarted_job_waits_at_home_for_a_site_that_no_relay_has_heard_since(tmp_path: Path) -> None:
    async with road(tmp_path, diverted_job(restart_count=1), is_agent_up=False, grace_s=0.5) as way:
        await way.opened(restart_count=1)
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "home")
        await eventually(lambda: _is_put_off(way), "the start is put off")
        await way.agent.start()
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]


async def test_a_restarted_job_waits_at_home_for_a_site_that_answers_but_does_not_end_the_run_before(
    tmp_path: Path,
) -> None:
    """No relay has handed this attempt over, but one may have done so with that before."""
    async with road(tmp_path, _started_long_ago(), grace_s=0.5) as way:
        proxy = await way.running()
        await way.stop_relay()
        proxy.close()
        first, way.view.jobs[7] = way.agent.run, replace(way.view.jobs[7], restart_count=1)
        way.agent.can_stop = False
        await way.restart_relay()
        await asyncio.sleep(2.5)  # so that the site has been heard
        await way.opened(restart_count=1, was_handed_over=False)
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "home")
        await eventually(lambda: _is_put_off(way), "the start is put off")
        assert first.stop_reason is None
        way.agent.can_stop = True
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]
        assert first.stop_reason is not None


async def test_once_the_lease_is_over_nothing_holds_the_job_back(tmp_path: Path) -> None:
    async with road(tmp_path, lease_s=2, lease_margin_s=1.0) as way:
        await _lose_proxy_and_site(way)
        _requeue(way)
        await eventually(lambda: _is_put_off(way), "the start is put off")
        await eventually(lambda: not way.view.jobs[7].trail.unfenced_at, "the mark is gone")  # type: ignore[union-attr]


async def test_a_job_that_went_home_from_an_unreachable_site_starts_at_once(tmp_path: Path) -> None:
    async with road(tmp_path, diverted_job(), is_agent_up=False, grace_s=0.5) as way:
        await way.opened()
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "home")
        await eventually(lambda: way.view.jobs[7].reason == "None", "it may start")
        trail = way.view.jobs[7].trail
        assert trail is not None
        assert (trail.refused_by, trail.unfenced_at) == (("site-a",), "")


async def test_a_cancelled_job_is_not_put_off_and_its_run_is_stopped_when_the_site_is_back(tmp_path: Path) -> None:
    """F9."""
    async with road(tmp_path) as way:
        proxy = await way.running()
        await way.agent.stop()
        way.view.jobs[7] = replace(way.view.jobs[7], state="CANCELLED")
        proxy.close()
        await way.agent.start()
        await eventually(lambda: way.agent.run.stop_reason, "the run is stopped")
        assert way.view.jobs[7].state == "CANCELLED"


async def test_a_run_whose_site_is_silent_for_longer_than_the_lease_is_a_node_failure(tmp_path: Path) -> None:
    async with road(tmp_path, lease_s=2, lease_margin_s=1.0) as way:
        await way.running()
        await way.agent.stop()
        await eventually(lambda: way.view.jobs[7].restart_count == 1, "Slurm starts it again")
        assert way.view.jobs[7].partitions == ("batch",)


async def test_a_submit_without_an_answer_goes_home_once_the_lease_of_what_it_made_is_over(tmp_path: Path) -> None:
    async with road(tmp_path, grace_s=0.0, lease_s=2, lease_margin_s=1.0) as way:
        way.agent.takes_runs.clear()
        await way.opened()
        await eventually(lambda: way.agent.asked_to_submit, "the submit")
        await way.agent.stop()
        await eventually(lambda: way.view.jobs[7].restart_count == 1, "home")
        assert way.view.jobs[7].partitions == ("batch",)
