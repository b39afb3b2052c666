"""Which runs have lost their jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.v1 import agent_pb2
from overspill_sidecar.cluster import Job
from overspill_sidecar.reconcile import step
from tests.unit.sidecar_cluster import job, running

_JOB = running(7, "ovs1", partitions=("overspill",))


def _run(of: Job = _JOB, state: agent_pb2.RunState.ValueType = agent_pb2.RUN_STATE_RUNNING) -> agent_pb2.RunSummary:
    request_id = agent_pb2.RequestId(
        slurm_cluster="rig",
        slurm_job_id=of.slurm_job_id,
        submit_time_s=of.submit_time_s,
        restart_count=of.restart_count,
    )
    return agent_pb2.RunSummary(run_id=f"run-{of.slurm_job_id}-{of.restart_count}", request_id=request_id, state=state)


def test_a_run_whose_job_runs_is_left_alone() -> None:
    todo = step([_run()], [_JOB], {"run-7-0"})
    assert (todo.stops, todo.releases, todo.suspects) == ((), (), frozenset())


def test_a_run_without_a_job_is_stopped_only_once_slurm_has_said_so_twice() -> None:
    first = step([_run()], [], frozenset())
    assert (first.stops, first.suspects) == ((), frozenset({"run-7-0"}))
    assert step([_run()], [], first.suspects).stops == ("run-7-0",)


def test_a_job_that_comes_back_into_sight_clears_its_run() -> None:
    first = step([_run()], [], frozenset())
    second = step([_run()], [_JOB], first.suspects)
    assert step([_run()], [], second.suspects).stops == ()


@pytest.mark.parametrize(
    "now",
    [
        job(7, partitions=("overspill",)),
        replace(_JOB, restart_count=1),
        replace(_JOB, submit_time_s=_JOB.submit_time_s + 9),
        replace(_JOB, state="CANCELLED"),
    ],
)
def test_a_requeued_reused_or_ended_job_id_is_another_attempt(now: Job) -> None:
    assert step([_run()], [now], {"run-7-0"}).stops == ("run-7-0",)


@pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED", "SIGNALING"])
def test_whatever_state_holds_the_node_keeps_the_run(state: str) -> None:
    assert step([_run()], [replace(_JOB, state=state)], {"run-7-0"}).stops == ()


def test_an_ended_run_that_nobody_fetched_is_released_when_its_job_is_gone() -> None:
    ended = _run(state=agent_pb2.RUN_STATE_ENDED)
    assert step([ended], [_JOB], {"run-7-0"}).releases == ()
    assert step([ended], [], {"run-7-0"}).releases == ("run-7-0",)


@given(st.lists(st.integers(1, 8), unique=True), st.lists(st.integers(1, 8), unique=True), st.sets(st.integers(1, 8)))
def test_nothing_is_done_to_a_run_that_has_a_job_or_was_not_suspected(
    run_ids: list[int], job_ids: list[int], suspected: set[int]
) -> None:
    runs = [_run(running(number, "ovs1")) for number in run_ids]
    todo = step(runs, [running(number, "ovs1") for number in job_ids], {f"run-{number}-0" for number in suspected})
    touched = {int(run_id.split("-")[1]) for run_id in todo.stops + todo.releases}
    assert touched == (set(run_ids) & suspected) - set(job_ids)
