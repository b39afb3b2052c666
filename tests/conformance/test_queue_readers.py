"""Every reader of the queue tells the same of the same live Slurm, and tells when Slurm is not there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from overspill.errors import UnavailableError
from overspill_sidecar.cluster import Job
from overspill_sidecar.slurm import CommandLineView, FittingReader, PyslurmReader, QueueReader, SqueueReader
from tests.conformance.pyslurm_inside import PYSLURM_PROCESS, pyslurm_argv
from tests.integration.sidecar_road import eventually_async
from tests.rig import Rig
from tests.rig.parts import ALL_PARTS
from tests.rig.releases import RELEASES
from tests.rig.slurm_conf import ACCOUNT, ClusterOptions
from tests.rig.waiting import poll

#: The first rig of a release installs its Slurm and builds its pyslurm.
pytestmark = pytest.mark.timeout(600)

_SLEEP = "#!/bin/sh\nsleep 600\n"
#: Longer than a question takes, shorter than slurmctld's clients wait.
_DEADLINE_S = 5.0
_COMMENT = "two\nlines; \"quoted\" 'twice' JobState=RUNNING |"
_RESERVATION = "maintenance"
#: Options of jobs that are to be told alike.
_JOBS = (
    ("--ntasks=2", "--time=30", "--mem-per-cpu=100", f"--account={ACCOUNT}", "--requeue"),
    ("--array=0-5%2", "--time=2:00:00", "--qos=normal", "--no-requeue"),
    ("--gres=gpu:2", "--time=1:30:00"),
    ("--time=5", f"--reservation={_RESERVATION}"),
    ("--array=3,7-11:2", "--hold"),
    ("--dependency=afterok:1", "--nodes=2-3"),
    ("--begin=now+1hour", "--nice=100"),
    ("--hold", "--time=600000"),
    ("--hold", "--time=UNLIMITED", "--partition=overspill,batch", "--ntasks=32"),
    ("--hold", "--gres=gpu:1", f"--comment={_COMMENT}", f"--job-name={_COMMENT}"),
    ("--hold", "--deadline=now+2hours"),
    ("--ntasks=1", "--time=10", ":", "--ntasks=2", "--time=10"),
    ("--nodes=4", "--ntasks-per-node=2", "--time=5"),
)
#: The one of them with a comment of an operator's.
_COMMENTED = 9
_ARRAY = 1
_WITH_GPUS = 2


@pytest.fixture(name="rig", scope="module", params=RELEASES)
def _rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    # Without accounting Slurm tells no GPUs of a job.
    cluster = ClusterOptions(accounting="associations", gpus=2)
    with Rig.up(without=ALL_PARTS, slurm=request.param, cluster=cluster) as rig:
        # 26.05 does not start without a file that it writes after five minutes, or when it ends in peace.
        slurmctld = rig.cluster.daemon("slurmctld")
        slurmctld.stop()
        slurmctld.start()
        reservation = (
            f"ReservationName={_RESERVATION}",
            "StartTime=now+20hours",
            "Duration=60",
            "Nodes=c4",
            "Users=alice",
        )
        rig.cluster.run(["scontrol", "create", *reservation], check=True)
        ids = [rig.sbatch(_SLEEP, *job) for job in _JOBS]
        rig.cluster.run(["scontrol", "update", f"job={ids[_COMMENTED]}", f"admincomment={_COMMENT}"], check=True)
        for job in (f"{ids[_ARRAY]}_0", ids[_WITH_GPUS]):
            rig.wait_for_state(job, "RUNNING")
        yield rig


class Readers:
    """The readers of one rig's queue, each with a process of its own where it needs one."""

    def __init__(self, rig: Rig, commands: Path, stack: AsyncExitStack) -> None:
        self.scontrol = commands / "scontrol"
        self.release = rig.options.slurm.name
        self.squeue = SqueueReader(_DEADLINE_S)
        self.pyslurm, self._other = (PyslurmReader(_DEADLINE_S, pyslurm_argv(rig)) for _ in range(2))
        self.fitting = FittingReader(self._other, self.squeue)
        for reader in (self.pyslurm, self._other):
            stack.push_async_callback(reader.close)

    async def jobs(self, reader: QueueReader) -> dict[int, Job]:
        return {job.slurm_job_id: job for job in await reader.jobs(self.release)}

    async def told_by_all(self) -> Mapping[str, dict[int, Job] | BaseException]:
        """Ask all at the same time; return what each tells, or why it tells nothing."""
        readers: dict[str, QueueReader] = {"squeue": self.squeue, "pyslurm": self.pyslurm, "fitting": self.fitting}
        told = await asyncio.gather(*map(self.jobs, readers.values()), return_exceptions=True)
        return dict(zip(readers, told, strict=True))


@pytest.fixture(name="readers")
async def _readers(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Readers]:
    rig.cluster.write_callers(tmp_path, ["squeue", "scontrol"], user="slurm")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with AsyncExitStack() as stack:
        yield Readers(rig, tmp_path, stack)


async def test_pyslurm_tells_of_every_job_what_squeue_tells(readers: Readers) -> None:
    told: list[dict[int, Job]] = []

    async def nothing_has_changed_meanwhile() -> bool:
        told[:] = [await readers.jobs(reader) for reader in (readers.squeue, readers.pyslurm, readers.squeue)]
        planned = [job for job in told[0].values() if job.reason in {"Resources", "Priority"} and job.start_time_s]
        return told[0] == told[2] and bool(planned)

    await eventually_async(nothing_has_changed_meanwhile, "two equal answers of squeue with a planned start", 60)
    assert told[1] == told[0]
    jobs = told[1].values()
    assert {"RUNNING", "PENDING"} <= {job.state for job in jobs}
    assert {"JobHeldUser", "BeginTime", "JobArrayTaskLimit", "Reservation"} <= {job.reason for job in jobs}
    assert any(job.array_task_id == 0 for job in jobs)
    assert [job.admin_comment for job in jobs if job.admin_comment] == [_COMMENT]
    assert {(job.is_pending, job.gpus) for job in jobs} == {(False, 0), (False, 2), (True, 0), (True, 1)}
    assert {job.reservation for job in jobs} == {"", _RESERVATION}
    assert {(job.account, job.qos) for job in jobs} == {(ACCOUNT, "normal")}


async def test_the_jobs_of_a_snapshot_are_what_pyslurm_tells_where_it_fits(readers: Readers) -> None:
    snapshot = await CommandLineView(_DEADLINE_S, reader=readers.fitting).snapshot()
    assert snapshot.reader == "pyslurm"
    assert {job.slurm_job_id for job in snapshot.jobs} == (await readers.jobs(readers.squeue)).keys()


async def test_while_slurmctld_is_stopped_the_queue_is_unknown_within_the_deadline(rig: Rig, readers: Readers) -> None:
    slurmctld = rig.cluster.daemon("slurmctld")
    before = await readers.told_by_all()
    slurmctld.signal(signal.SIGSTOP)
    try:
        told = await readers.told_by_all()
    finally:
        slurmctld.signal(signal.SIGCONT)
    assert all(isinstance(answer, UnavailableError) for answer in told.values()), told
    assert "no answer within 5 s" in str(told["pyslurm"])
    assert _ids(await readers.told_by_all()) == _ids(before)
    assert readers.fitting.used == "pyslurm"


async def test_without_slurmctld_the_queue_is_unknown_and_the_next_one_is_asked(rig: Rig, readers: Readers) -> None:
    slurmctld = rig.cluster.daemon("slurmctld")
    before = await readers.told_by_all()
    slurmctld.signal(signal.SIGKILL)
    try:
        told = await readers.told_by_all()
    finally:
        slurmctld.start()
    assert all(isinstance(answer, UnavailableError) for answer in told.values()), told
    assert _ids(await readers.told_by_all()) == _ids(before)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_where_pyslurms_process_dies_or_hangs_squeue_answers_the_same_question(
    rig: Rig, readers: Readers, number: signal.Signals
) -> None:
    before = await readers.jobs(readers.fitting)
    for pid in _pyslurms(rig):
        os.kill(pid, number)
    assert (await readers.jobs(readers.fitting)).keys() == before.keys()
    assert readers.fitting.used.startswith("command-line (pyslurm: ")
    assert await readers.jobs(readers.pyslurm) == await readers.jobs(readers.squeue)


def _ids(told: Mapping[str, dict[int, Job] | BaseException]) -> dict[str, set[int] | str]:
    return {name: str(answer) if isinstance(answer, BaseException) else set(answer) for name, answer in told.items()}


def _pyslurms(rig: Rig) -> list[int]:
    """Return the processes that ask by pyslurm, there being one."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = [pid for pid in rig.cluster.processes().values() if PYSLURM_PROCESS in _command_line(pid)]
        return bool(found)

    assert poll(is_there, timeout_s=10, interval_s=0.1)
    return found


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")


async def test_with_a_slurm_conf_that_cannot_be_read_the_queue_is_unknown_and_why_is_told(
    rig: Rig, readers: Readers
) -> None:
    conf = rig.cluster.path("/etc/slurm/slurm.conf")
    well = conf.read_text()
    rig.cluster.rewrite("/etc/slurm/slurm.conf", f"{well}NoSuchWord=1\n")
    try:
        for scontrol in (readers.scontrol.read_text(), f"#!/bin/sh\necho slurm {readers.release}.0\n"):
            readers.scontrol.write_text(scontrol)
            with pytest.raises(UnavailableError, match=r"(?s)NoSuchWord"):
                await readers.pyslurm.jobs(readers.release)
    finally:
        rig.cluster.rewrite("/etc/slurm/slurm.conf", well)
    assert await readers.pyslurm.jobs(readers.release)
