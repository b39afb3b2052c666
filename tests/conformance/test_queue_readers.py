"""Every reader of the queue tells the same of the same live Slurm, and tells when Slurm is not there."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from overspill.errors import UnavailableError
from overspill_sidecar.cluster import Job
from overspill_sidecar.slurm import FittingReader, PyslurmReader, QueueReader, SqueueReader
from overspill_sidecar.slurm.readers import PYSLURM_ARGV
from tests.integration.sidecar_road import eventually_async
from tests.rig import Rig
from tests.rig.parts import ALL_PARTS
from tests.rig.releases import RELEASES
from tests.rig.slurm_conf import ClusterOptions

_PROCESS = f"/opt/overspill/lib/overspill_sidecar/slurm/{Path(PYSLURM_ARGV[-1]).name}"
_SLEEP = "#!/bin/sh\nsleep 600\n"
#: Longer than a question takes, shorter than slurmctld's clients wait.
_DEADLINE_S = 3.0
_COMMENT = "two\nlines; \"quoted\" 'twice' JobState=RUNNING |"
#: Options of jobs that are to be told alike.
_JOBS = (
    ("--ntasks=2", "--time=30", "--mem-per-cpu=100", "--account=phy\nsics", "--requeue"),
    ("--array=0-5%2", "--time=1-0", "--account=physics", "--no-requeue"),
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
_COMMENTED = 7
_ARRAY = 1


@pytest.fixture(name="rig", scope="module", params=RELEASES)
def _rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig.up(without=ALL_PARTS, slurm=request.param, cluster=ClusterOptions(gpus=2)) as rig:
        ids = [rig.sbatch(_SLEEP, *job) for job in _JOBS]
        rig.cluster.run(["scontrol", "update", f"job={ids[_COMMENTED]}", f"admincomment={_COMMENT}"], check=True)
        rig.wait_for_state(f"{ids[_ARRAY]}_0", "RUNNING")
        yield rig


class Readers:
    """The readers of one rig's queue."""

    def __init__(self, rig: Rig, commands: Path, stack: AsyncExitStack) -> None:
        python = "/opt/overspill/venv/bin/python"
        argv = rig.cluster.command([python, "-I", _PROCESS], user="slurm", cwd="/")
        self.scontrol = commands / "scontrol"
        self.release = rig.options.slurm.name
        self.squeue = SqueueReader(_DEADLINE_S)
        self.pyslurm = PyslurmReader(_DEADLINE_S, argv)
        stack.push_async_callback(self.pyslurm.close)

    async def jobs(self, reader: QueueReader) -> dict[int, Job]:
        return {job.slurm_job_id: job for job in await reader.jobs(self.release)}


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
        return told[0] == told[2]

    await eventually_async(nothing_has_changed_meanwhile, "two equal answers of squeue", 30)
    assert told[1] == told[0]
    jobs = told[1].values()
    assert {"RUNNING", "PENDING"} <= {job.state for job in jobs}
    assert {"JobHeldUser", "BeginTime", "JobArrayTaskLimit"} <= {job.reason for job in jobs}
    assert any(job.array_task_id == 0 for job in jobs)
    assert [job.admin_comment for job in jobs if job.admin_comment] == [_COMMENT]


async def test_while_slurmctld_is_stopped_the_queue_is_unknown_within_the_deadline(rig: Rig, readers: Readers) -> None:
    slurmctld = rig.cluster.daemon("slurmctld")
    reader = FittingReader(readers.pyslurm, readers.squeue)
    assert await reader.jobs(readers.release)
    slurmctld.signal(signal.SIGSTOP)
    try:
        with pytest.raises(UnavailableError, match="no answer within 3 s"):
            await reader.jobs(readers.release)
    finally:
        slurmctld.signal(signal.SIGCONT)
    assert await readers.pyslurm.jobs(readers.release)
    assert reader.used == "pyslurm"


async def test_without_slurmctld_the_queue_is_unknown_and_the_next_one_is_asked(rig: Rig, readers: Readers) -> None:
    slurmctld = rig.cluster.daemon("slurmctld")
    before = await readers.jobs(readers.pyslurm)
    slurmctld.stop()
    try:
        for reader in (readers.pyslurm, FittingReader(readers.pyslurm, readers.squeue)):
            with pytest.raises(UnavailableError):
                await reader.jobs(readers.release)
    finally:
        slurmctld.start()
    assert (await readers.jobs(readers.pyslurm)).keys() == before.keys()


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
