"""What every ClusterView promises, held against the shipped fake and against a real Slurm."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Protocol

import pytest

from overspill.errors import NotFoundError, UnrunnableError
from overspill_sidecar.cluster import Job, Trail
from overspill_sidecar.relay.going_home import requeue, send_home, start_soon
from overspill_sidecar.slurm import ClusterView, CommandLineView, InMemoryView
from tests.integration.sidecar_road import eventually_async, in_memory_view
from tests.rig import Rig
from tests.rig.parts import ALL_PARTS
from tests.unit.sidecar_cluster import running

_UNKNOWN = 999_999
_COMMENT = '{"site": {"note": "it\'s kept; $(x)"}, "overspill": {"decision": "d-1", "site": "a", "partition": "batch"}}'


class Cluster(Protocol):
    """A Slurm with a view of it, and the means to have a job run on the virtual node."""

    @property
    def view(self) -> ClusterView: ...

    async def run_job(self, *, may_requeue: bool = True) -> Job:
        """Return a job of one CPU and alice's that runs on `ovs1`."""
        ...


class FakeCluster:
    def __init__(self) -> None:
        self.view: InMemoryView = in_memory_view()

    async def run_job(self, *, may_requeue: bool = True) -> Job:
        job = running(7, "ovs1", cpus=1, partitions=("overspill",), can_requeue=may_requeue)
        self.view.jobs[7] = job
        return job


class SlurmCluster:
    def __init__(self, rig: Rig) -> None:
        self.view = CommandLineView()
        self._rig = rig

    async def run_job(self, *, may_requeue: bool = True) -> Job:
        option = "--requeue" if may_requeue else "--no-requeue"
        job_id = self._rig.sbatch("#!/bin/sh\nsleep 600\n", "--partition=overspill,batch", "--nodelist=ovs1", option)
        self._rig.wait_for_state(job_id, "RUNNING")
        job = await self.view.job(job_id)
        assert job is not None
        return job


@pytest.fixture(name="plain_slurm", scope="module")
def _plain_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A Slurm without Overspill, whose commands are on this process's PATH as SlurmUser would run them."""
    programs = tmp_path_factory.mktemp("bin")
    with Rig.up(without=ALL_PARTS) as rig, pytest.MonkeyPatch.context() as patch:
        for name in ("squeue", "scontrol"):
            inside = shlex.join(rig.cluster.command([name], user="slurm", cwd="/"))
            (programs / name).write_text(f'#!/bin/sh\nexec {inside} "$@"\n')
            (programs / name).chmod(0o755)
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        yield rig


@pytest.fixture(name="cluster", params=["memory", "slurm"])
async def _cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    if request.param == "memory":
        yield FakeCluster()
        return
    rig: Rig = request.getfixturevalue("plain_slurm")
    yield SlurmCluster(rig)
    rig.cluster.run(["scancel", "--user=alice"], check=True)


async def _job_becomes(cluster: Cluster, job: Job, wanted: Callable[[Job], bool], what: str) -> Job:
    seen: list[Job] = []

    async def is_there() -> bool:
        now = await cluster.view.job(job.slurm_job_id)
        assert now is not None
        seen.append(now)
        return wanted(now)

    await eventually_async(is_there, what, 30)
    return seen[-1]


async def test_a_snapshot_shows_jobs_nodes_and_partitions_of_one_moment(cluster: Cluster) -> None:
    job = await cluster.run_job()
    before = time.monotonic()
    snapshot = await cluster.view.snapshot()
    assert snapshot.asked_at >= before
    shown = next(each for each in snapshot.jobs if each.slurm_job_id == job.slurm_job_id)
    assert (shown.state, shown.user_id, shown.user_name, shown.batch_host) == ("RUNNING", 2001, "alice", "ovs1")
    assert (shown.partitions, shown.cpus, shown.restart_count) == (("overspill",), 1, 0)
    assert (snapshot.config.cluster_name, snapshot.config.manages_memory) == ("rig", True)
    assert snapshot.default_partition == snapshot.partitions["batch"]
    assert [node.name for node in snapshot.nodes_of("overspill")] == ["ovs1"]
    assert all(node.is_usable for node in snapshot.nodes.values())


async def test_that_there_is_no_such_job_is_an_answer_to_a_question_and_an_error_of_a_change(cluster: Cluster) -> None:
    assert await cluster.view.job(_UNKNOWN) is None
    with pytest.raises(NotFoundError):
        await cluster.view.update(_UNKNOWN, Requeue="1")
    with pytest.raises(NotFoundError):
        await cluster.view.requeue(_UNKNOWN)


async def test_an_admin_comment_is_kept_as_it_is_and_our_part_of_it_is_read(cluster: Cluster) -> None:
    job = await cluster.run_job()
    await cluster.view.update(job.slurm_job_id, AdminComment=_COMMENT)
    now = await cluster.view.job(job.slurm_job_id)
    assert now is not None
    assert now.admin_comment == _COMMENT
    assert now.trail == Trail("d-1", "a", "batch")


async def test_a_running_job_keeps_its_partition(cluster: Cluster) -> None:
    job = await cluster.run_job()
    with pytest.raises(UnrunnableError):
        await cluster.view.update(job.slurm_job_id, Partition="batch")


async def test_a_job_that_must_not_be_requeued_is_not(cluster: Cluster) -> None:
    job = await cluster.run_job(may_requeue=False)
    assert not job.can_requeue
    with pytest.raises(UnrunnableError):
        await cluster.view.requeue(job.slurm_job_id)


async def _diverted(cluster: Cluster, *, may_requeue: bool) -> Job:
    job = await cluster.run_job(may_requeue=may_requeue)
    await cluster.view.update(job.slurm_job_id, AdminComment=_COMMENT)
    now = await cluster.view.job(job.slurm_job_id)
    assert now is not None
    return now


@pytest.mark.parametrize("may_requeue", [True, False])
async def test_a_job_goes_home_and_may_start_there_at_once(cluster: Cluster, *, may_requeue: bool) -> None:
    job = await _diverted(cluster, may_requeue=may_requeue)
    await send_home(cluster.view, job, "site-a")
    await send_home(cluster.view, job, "site-a")
    now = await _job_becomes(cluster, job, lambda now: not now.is_active or now.state == "COMPLETING", "requeued")
    assert (now.partitions, now.restart_count) == (("batch",), 1)
    assert '"refused_by":["site-a"]' in now.admin_comment
    assert '"note":"it\'s kept; $(x)"' in now.admin_comment
    await start_soon(cluster.view, job)
    now = await _job_becomes(cluster, job, lambda now: now.reason != "BeginTime", "no longer held back")
    assert now.can_requeue is may_requeue


async def test_asking_twice_for_a_new_attempt_ends_one_attempt(cluster: Cluster) -> None:
    job = await cluster.run_job()
    await requeue(cluster.view, job)
    await requeue(cluster.view, job)
    now = await cluster.view.job(job.slurm_job_id)
    assert now is not None
    assert now.restart_count == 1


async def test_a_job_that_is_gone_cannot_be_requeued(cluster: Cluster) -> None:
    job = await cluster.run_job()
    with pytest.raises(NotFoundError):
        await requeue(cluster.view, replace(job, slurm_job_id=_UNKNOWN))
