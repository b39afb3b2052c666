"""What every ClusterView promises, held against the shipped fake and against a real Slurm."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from overspill.errors import NotFoundError, UnrunnableError
from overspill_sidecar.cluster import Job, JobDetails, JobRequest, Node, Trail
from overspill_sidecar.relay.going_home import requeue, send_home, start_soon
from overspill_sidecar.slurm import ClusterView, CommandLineView, InMemoryView, PyslurmReader
from overspill_sidecar.slurm_text import last_array_tasks
from tests.conformance.pyslurm_inside import pyslurm_argv
from tests.integration.sidecar_road import eventually_async, in_memory_view
from tests.rig import Rig
from tests.rig.parts import ALL_PARTS
from tests.rig.releases import RELEASES
from tests.unit.sidecar_cluster import job as pending_job
from tests.unit.sidecar_cluster import running

#: The first rig of a release installs its Slurm and builds its pyslurm.
pytestmark = pytest.mark.timeout(600)

_UNKNOWN = 999_999
_DEADLINE_S = 10.0
_ALL_NODES = "NodeName=c[1-4],ovs1"
_COMMENT = '{"site": {"note": "it\'s kept; $(x)"}, "overspill": {"decision": "d-1", "site": "a", "partition": "batch"}}'


class Cluster(Protocol):
    """A Slurm with a view of it, and the means to have a job run on the virtual node."""

    @property
    def view(self) -> ClusterView: ...

    async def run_job(self, *, may_requeue: bool = True) -> Job:
        """Return a job of one CPU and alice's that runs on `ovs1`."""
        ...

    async def charge(self, account: str) -> Job:
        """Return a job that is charged to this account, any text, where Slurm keeps no accounts."""
        ...

    async def run_array(self) -> list[Job]:
        """Return two tasks that run on `ovs1`; the second has the array's own id."""
        ...

    async def queue_job(self, *, is_exclusive: bool = False) -> Job:
        """Return a job, plain otherwise, that waits for a node of `batch` that it does not get."""
        ...

    async def queue_array(self) -> Job:
        """Return the one record of four tasks that wait so."""
        ...

    async def cancel(self, job: Job) -> None:
        """Cancel the job, as its user does."""
        ...


class FakeCluster:
    def __init__(self) -> None:
        self.view: InMemoryView = in_memory_view()

    async def run_job(self, *, may_requeue: bool = True) -> Job:
        job = running(7, "ovs1", cpus=1, partitions=("overspill",), can_requeue=may_requeue)
        self.view.jobs[7] = job
        return job

    async def charge(self, account: str) -> Job:
        job = replace(await self.run_job(), account=account if account.isalnum() else "")
        self.view.jobs[job.slurm_job_id] = job
        return job

    async def run_array(self) -> list[Job]:
        for job_id, task_id in ((8, 1), (7, 2)):
            self.view.jobs[job_id] = running(
                job_id, "ovs1", cpus=1, partitions=("overspill",), array_job_id=7, array_task_id=task_id
            )
        return [self.view.jobs[8], self.view.jobs[7]]

    async def queue_job(self, *, is_exclusive: bool = False) -> Job:
        self.view.jobs[9] = pending_job(9)
        self.view.requests[9] = JobRequest(is_exclusive=is_exclusive)
        return self.view.jobs[9]

    async def queue_array(self) -> Job:
        self.view.jobs[10] = pending_job(10, array_job_id=10, array_tasks="1-4", tasks=4)
        return self.view.jobs[10]

    async def cancel(self, job: Job) -> None:
        self.view.jobs[job.slurm_job_id] = replace(self.view.jobs[job.slurm_job_id], state="CANCELLED")


class SlurmCluster:
    def __init__(self, rig: Rig) -> None:
        # The jobs of a snapshot are pyslurm's, single ones squeue's: both are held to the same.
        self.view = CommandLineView(reader=PyslurmReader(_DEADLINE_S, pyslurm_argv(rig)))
        self._rig = rig

    async def run_job(self, *, may_requeue: bool = True) -> Job:
        return await self._job(self._submit("--requeue" if may_requeue else "--no-requeue"))

    async def charge(self, account: str) -> Job:
        job_id = self._submit(f"--account={account}")
        seen: list[Job] = []

        async def is_running() -> bool:
            seen.extend(job for job in [await self.view.job(job_id)] if job is not None and job.state == "RUNNING")
            return bool(seen)

        await eventually_async(is_running, "running", 30)
        return seen[-1]

    async def run_array(self) -> list[Job]:
        array_id = self._submit("--array=1-2")
        return [await self._job(f"{array_id}_{number}") for number in (1, 2)]

    async def queue_job(self, *, is_exclusive: bool = False) -> Job:
        return await self._queued(self._close_all(*(["--exclusive"] if is_exclusive else [])))

    async def queue_array(self) -> Job:
        return await self._queued(self._close_all("--array=1-4"))

    def _close_all(self, *options: str) -> int:
        """Submit to nodes that take no job for as long as the test runs."""
        self._rig.cluster.run(["scontrol", "update", _ALL_NODES, "State=DRAIN", "Reason=full"], check=True)
        return self._rig.sbatch("#!/bin/sh\n:\n", *options)

    async def _queued(self, job_id: int) -> Job:
        job = await self.view.job(job_id)
        assert job is not None
        assert job.is_pending
        return job

    async def cancel(self, job: Job) -> None:
        self._rig.cluster.run(["scancel", job.name], user="alice", check=True)

    def _submit(self, *options: str) -> int:
        # A script that outlives TERM keeps a job COMPLETING for KillWait.
        script = "#!/bin/sh\ntrap '' TERM\nsleep 600\n"
        return self._rig.sbatch(script, "--partition=overspill,batch", "--nodelist=ovs1", *options)

    async def _job(self, name: int | str) -> Job:
        shown = self._rig.wait_for_state(name, "RUNNING")
        job = await self.view.job(int(shown["JobId"]))
        assert job is not None
        return job


@pytest.fixture(name="plain_slurm", scope="module")
def _plain_slurm() -> Iterator[Callable[[str], Rig]]:
    """Give the Slurm of a release without Overspill, the same one each time."""
    with ExitStack() as rigs:
        yield functools.cache(lambda release: rigs.enter_context(Rig.up(without=ALL_PARTS, slurm=release)))


@pytest.fixture(name="cluster", params=["memory", *RELEASES])
async def _cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    if request.param == "memory":
        yield FakeCluster()
        return
    rig: Rig = request.getfixturevalue("plain_slurm")(request.param)
    with pytest.MonkeyPatch.context() as patch:
        commands = rig.cluster.write_callers(tmp_path, ["squeue", "scontrol"], user="slurm")
        patch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
        cluster = SlurmCluster(rig)
        yield cluster
        await cluster.view.close()
    rig.cluster.run(["scancel", "--user=alice"], check=True)
    if "drain" in rig.cluster.run(["sinfo", "--noheader", "--format=%T"], check=True).stdout:
        rig.cluster.run(["scontrol", "update", _ALL_NODES, "State=UNDRAIN"], check=True)


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


async def test_a_jobs_account_is_told(cluster: Cluster) -> None:
    job = await cluster.charge("physics")
    assert (job.account, job.node_count, job.reservation, job.eligible_time_s) == ("physics", 1, "", job.submit_time_s)
    assert await cluster.view.details(job.slurm_job_id) == await cluster.view.details(_UNKNOWN) == JobDetails()


async def test_an_account_that_looks_like_records_is_none_and_makes_none(cluster: Cluster) -> None:
    job = await cluster.charge("x\x1e\n999999\x1f999999\x1fN/A\n")
    snapshot = await cluster.view.snapshot()
    (shown,) = [each for each in snapshot.jobs if each.slurm_job_id in {job.slurm_job_id, _UNKNOWN}]
    assert (shown.slurm_job_id, shown.account, shown.state) == (job.slurm_job_id, "", "RUNNING")


async def test_what_a_pending_job_asks_for_is_told_and_of_no_job_nothing(cluster: Cluster) -> None:
    job = await cluster.queue_job()
    asked = await cluster.view.request(job)
    assert asked is not None
    assert (asked.has_script, asked.num_tasks, asked.min_nodes, asked.dependency) == (True, 1, 1, "")
    assert (asked.is_het, asked.is_cron, asked.is_exclusive, asked.asks_all_memory) == (False, False, False, False)
    assert (asked.odd_options, asked.licenses, asked.features, asked.excluded_nodes) == ((), "", "", "")
    assert await cluster.view.request(replace(job, slurm_job_id=_UNKNOWN)) is None
    whole = await cluster.view.request(await cluster.queue_job(is_exclusive=True))
    assert whole is not None
    assert whole.is_exclusive
    # By the array's id Slurm tells of each of its jobs, of which only one is asked about.
    array = await cluster.queue_array()
    await cluster.view.update(f"{array.array_job_id}_4", Partition="batch,overspill")
    jobs = [job for job in (await cluster.view.snapshot()).jobs if job.array_job_id == array.array_job_id]
    assert len(jobs) == 2
    assert [asked and asked.num_tasks for asked in [await cluster.view.request(job) for job in jobs]] == [1, 1]


async def test_all_fields_of_a_change_are_made_at_once_or_none(cluster: Cluster) -> None:
    started = await cluster.run_job()
    job = await cluster.queue_job()
    await cluster.view.update(job.name, Partition="batch,overspill", AdminComment=_COMMENT, TimeLimit="7")
    now = await cluster.view.job(job.slurm_job_id)
    assert now is not None
    assert (set(now.partitions), now.time_limit_s) == ({"batch", "overspill"}, 420)
    assert (now.trail, now.is_pending) == (Trail("d-1", "a", "batch"), True)
    with pytest.raises(UnrunnableError):
        await cluster.view.update(started.name, Partition="batch,overspill", AdminComment=_COMMENT)
    after = await cluster.view.job(started.slurm_job_id)
    assert after is not None
    assert after.trail is None


async def test_a_task_that_waits_with_others_is_changed_alone_and_the_others_together(cluster: Cluster) -> None:
    array = await cluster.queue_array()
    await cluster.view.update(f"{array.array_job_id}_4", Partition="batch,overspill", AdminComment=_COMMENT)
    jobs = [job for job in (await cluster.view.snapshot()).jobs if job.array_job_id == array.array_job_id]
    (task,) = [job for job in jobs if job.array_task_id == 4]
    (rest,) = [job for job in jobs if job.array_tasks]
    assert (set(task.partitions), task.trail) == ({"batch", "overspill"}, Trail("d-1", "a", "batch"))
    assert (rest.partitions, last_array_tasks(rest.array_tasks, 9)) == (("batch",), [3, 2, 1])
    await cluster.view.update(f"{array.array_job_id}_[{rest.array_tasks}]", Partition="batch,overspill")
    jobs = [job for job in (await cluster.view.snapshot()).jobs if job.array_job_id == array.array_job_id]
    assert {frozenset(job.partitions) for job in jobs} == {frozenset({"batch", "overspill"})}


async def test_that_there_is_no_such_job_is_an_answer_to_a_question_and_an_error_of_a_change(cluster: Cluster) -> None:
    assert await cluster.view.job(_UNKNOWN) is None
    with pytest.raises(NotFoundError):
        await cluster.view.update(str(_UNKNOWN), Requeue="1")
    with pytest.raises(NotFoundError):
        await cluster.view.requeue(str(_UNKNOWN))


async def test_an_admin_comment_is_kept_as_it_is_and_our_part_of_it_is_read(cluster: Cluster) -> None:
    job = await cluster.run_job()
    await cluster.view.update(job.name, AdminComment=_COMMENT)
    now = await cluster.view.job(job.slurm_job_id)
    assert now is not None
    assert now.admin_comment == _COMMENT
    assert now.trail == Trail("d-1", "a", "batch")


async def test_the_decision_about_a_job_that_is_over_is_told_and_of_others_not(cluster: Cluster) -> None:
    job = await cluster.run_job()
    decision_id = f"d-{job.slurm_job_id} alone"
    decided = {decision_id}
    await cluster.view.update(job.name, AdminComment=_COMMENT.replace("d-1", decision_id))
    assert not decided & await cluster.view.decisions_over()
    assert decided <= (await cluster.view.snapshot()).decisions
    await cluster.cancel(job)
    await _job_becomes(cluster, job, lambda now: now.state == "CANCELLED", "cancelled")
    assert decided <= await cluster.view.decisions_over()
    assert not decided & (await cluster.view.snapshot()).decisions


async def test_a_running_job_keeps_its_partition(cluster: Cluster) -> None:
    job = await cluster.run_job()
    with pytest.raises(UnrunnableError):
        await cluster.view.update(job.name, Partition="batch")


async def test_a_job_that_must_not_be_requeued_is_not(cluster: Cluster) -> None:
    job = await cluster.run_job(may_requeue=False)
    assert not job.can_requeue
    with pytest.raises(UnrunnableError):
        await cluster.view.requeue(job.name)


async def _diverted(cluster: Cluster, *, may_requeue: bool) -> Job:
    job = await cluster.run_job(may_requeue=may_requeue)
    await cluster.view.update(job.name, AdminComment=_COMMENT)
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


async def test_a_task_that_has_its_arrays_id_is_requeued_and_changed_alone(cluster: Cluster) -> None:
    other, job = await cluster.run_array()
    assert job.slurm_job_id == job.array_job_id == other.array_job_id
    await requeue(cluster.view, job)
    await cluster.view.update(job.name, Partition="batch")
    await cluster.view.update(job.name, AdminComment="moved")
    moved, untouched = [await cluster.view.job(each.slurm_job_id) for each in (job, other)]
    assert moved is not None
    assert untouched is not None
    assert (moved.restart_count, moved.partitions, moved.admin_comment) == (1, ("batch",), "moved")
    assert (untouched.state, untouched.restart_count) == ("RUNNING", 0)
    assert (untouched.partitions, untouched.admin_comment) == (("overspill",), "")


async def test_a_cancelled_job_cannot_be_brought_back_to_life(cluster: Cluster) -> None:
    job = await cluster.run_job()
    await cluster.cancel(job)
    await cluster.view.requeue(job.name)
    assert not await requeue(cluster.view, job)
    now = await _job_becomes(cluster, job, lambda now: not now.is_active, "over")
    assert (now.state, now.restart_count) == ("CANCELLED", 0)


async def test_a_job_that_is_cancelled_on_its_way_home_takes_no_more_changes_and_stays_cancelled(
    cluster: Cluster,
) -> None:
    job = await _diverted(cluster, may_requeue=True)
    assert await requeue(cluster.view, job)
    requeued = await cluster.view.job(job.slurm_job_id)
    assert requeued is not None
    await cluster.cancel(requeued)
    for fields in ({"Partition": "batch"}, {"StartTime": "now"}):
        with pytest.raises(NotFoundError):
            await cluster.view.update(job.name, **fields)
    assert await send_home(cluster.view, job, "site-a")
    await start_soon(cluster.view, job)
    now = await _job_becomes(cluster, job, lambda now: not now.is_active, "over")
    assert now.state == "CANCELLED"


async def _node_becomes(cluster: Cluster, wanted: Callable[[Node], bool], what: str) -> None:
    async def is_there() -> bool:
        return wanted((await cluster.view.nodes(["ovs1"]))["ovs1"])

    await eventually_async(is_there, what, 30)


async def test_a_drained_node_says_why_keeps_its_jobs_and_is_usable_again_once_it_is_undrained(
    cluster: Cluster,
) -> None:
    job = await cluster.run_job()
    await cluster.view.drain(["ovs1"], "overspill: site-a unreachable since 2026-11-21T13:00:00")
    node = (await cluster.view.snapshot()).nodes["ovs1"]
    assert (node.is_drained, node.is_usable) == (True, False)
    assert node.reason == "overspill: site-a unreachable since 2026-11-21T13:00:00"
    await cluster.view.drain(["ovs1"], "the admin's [own] words")
    node = (await cluster.view.nodes(["ovs1"]))["ovs1"]
    assert (node.is_drained, node.reason) == (True, "the admin's [own] words")
    still = await cluster.view.job(job.slurm_job_id)
    assert still is not None
    assert still.state == "RUNNING"
    await cluster.view.undrain(["ovs1"])
    await cluster.view.undrain(["ovs1"])
    node = (await cluster.view.nodes(["ovs1"]))["ovs1"]
    assert (node.is_drained, node.reason) == (False, "")
    await _node_becomes(cluster, lambda node: node.is_usable, "usable again")


async def test_a_node_that_slurm_does_not_know_is_an_error(cluster: Cluster) -> None:
    for act in (cluster.view.nodes(["no1"]), cluster.view.drain(["no1"], "why"), cluster.view.undrain(["no1"])):
        with pytest.raises(NotFoundError):
            await act
