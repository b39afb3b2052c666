"""Slurm's commands as processes: those that answer, fail, lie and hang."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from overspill.errors import NotFoundError, OverspillError, UnavailableError, UnrunnableError
from overspill_sidecar.metrics import REGISTRY
from overspill_sidecar.slurm import CommandLineView, command_line

_RECORDED = Path(__file__).parents[1] / "unit" / "slurm_22_05"
_END = r'sed "s/\x1e/${SQUEUE_FORMAT2##*:}/"'
_SQUEUE = f'case "$*" in *--jobs=29*) {_END} {_RECORDED}/job.txt;; *) {_END} {_RECORDED}/jobs.txt;; esac'
_SCONTROL = (
    'case "$*" in *partition) f=partitions;; *node) f=nodes;; *config) f=config;; *reservation) f=reservations;; esac;'
    f" cat {_RECORDED}/$f.txt"
)


class Programs:
    """A directory of stand-ins that comes first on PATH."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.write("squeue", _SQUEUE)
        self.write("scontrol", _SCONTROL)

    def write(self, name: str, script: str) -> None:
        path = self._directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture(name="programs")
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Programs(tmp_path)


async def test_a_few_commands_make_a_snapshot_whatever_the_number_of_jobs(programs: Programs, tmp_path: Path) -> None:
    for name, script in (("squeue", _SQUEUE), ("scontrol", _SCONTROL)):
        programs.write(name, f"echo {name} >>{tmp_path}/calls; {script}")
    view = CommandLineView()
    snapshot = await view.snapshot()
    assert (len(snapshot.jobs), sorted(snapshot.nodes)) == (12, ["c1", "c2", "c3", "c4", "ovs1"])
    often = ["scontrol", "scontrol", "scontrol", "squeue"]
    seldom = ["scontrol"]  # reservations
    assert sorted((tmp_path / "calls").read_text().split()) == sorted(often + seldom)
    await view.snapshot()
    assert sorted((tmp_path / "calls").read_text().split()) == sorted(often + seldom + often)


async def test_reservations_that_slurm_does_not_tell_are_unknown_and_the_rest_is_told(programs: Programs) -> None:
    assert [each.name for each in (await CommandLineView().snapshot()).reservations or ()] == ["maint1", "cores"]
    failure = "echo 'slurm_load_reservations error: Zero Bytes were transmitted or received' >&2; exit 1"
    programs.write("scontrol", f'case "$*" in *reservation) {failure};; esac; {_SCONTROL}')
    snapshot = await CommandLineView().snapshot()
    assert (snapshot.reservations, len(snapshot.jobs)) == (None, 12)


async def test_one_job_is_found_by_its_id(programs: Programs) -> None:
    job = await CommandLineView().job(29)
    assert job is not None
    assert (job.slurm_job_id, job.batch_host) == (29, "ovs1")


async def test_a_burst_of_questions_is_two_queries_and_no_answer_is_older_than_its_question(
    programs: Programs, tmp_path: Path
) -> None:
    programs.write("squeue", f"echo $* >>{tmp_path}/calls; sleep 0.2; {_END} {_RECORDED}/jobs.txt")
    view = CommandLineView()
    first = asyncio.create_task(view.job(22))
    await asyncio.sleep(0.1)
    jobs = await asyncio.gather(first, *(view.job(job_id) for job_id in (22, 23, 24, 25, 99)))
    assert [job and job.slurm_job_id for job in jobs] == [22, 22, 23, 24, 25, None]
    calls = (tmp_path / "calls").read_text()
    assert [line.split("--jobs=")[1].split()[0] for line in calls.split("\n") if line] == ["22", "22,23,24,25,99"]


async def test_that_there_is_no_such_job_is_slurms_word(programs: Programs) -> None:
    programs.write("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert await CommandLineView().job(99) is None


@pytest.mark.parametrize(
    "script",
    [
        "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
        "exit 1",
        "echo 'squeue: error: Invalid job format specification: RestartCnt' >&2; echo 7",
        "echo unexpected",
        "kill -9 $$",
    ],
)
async def test_a_query_that_fails_is_never_an_empty_queue(programs: Programs, script: str) -> None:
    programs.write("squeue", script)
    with pytest.raises(UnavailableError):
        await CommandLineView().snapshot()
    with pytest.raises(UnavailableError):
        await CommandLineView().job(29)


@pytest.mark.parametrize("name", ["squeue", "scontrol"])
async def test_a_command_that_hangs_is_killed_at_its_deadline(programs: Programs, tmp_path: Path, name: str) -> None:
    programs.write(name, f"echo $$ >{tmp_path}/pid; exec sleep 1000")
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=f"{name} gave no answer within 0.3 s"):
        await CommandLineView(deadline_s=0.3).snapshot()
    assert time.monotonic() - began < 3
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_without_slurms_commands_nothing_is_known(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UnavailableError, match="cannot run scontrol: No such file"):
        await CommandLineView().snapshot()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Invalid job id specified for job 7", NotFoundError),
        ("Job is no longer pending execution for job 7", UnrunnableError),
        ("Access/permission denied", UnrunnableError),
        ("Unable to contact slurm controller (connect failure)", UnavailableError),
        ("Resource temporarily unavailable", UnavailableError),
    ],
)
async def test_slurms_refusals_are_told_from_its_absence(
    programs: Programs, message: str, error: type[OverspillError]
) -> None:
    programs.write("scontrol", f"echo '{message}' >&2; exit 1")
    with pytest.raises(error, match=message.split(" (", maxsplit=1)[0]):
        await CommandLineView().update("7", Partition="batch")
    with pytest.raises(error):
        await CommandLineView().requeue("7")


async def test_a_slow_slurmctld_that_answers_stale_errors_is_not_asked_again_and_again(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "_TRY_FOR_S", 0.3)
    programs.write("scontrol", f"echo >>{tmp_path}/calls; sleep 0.1; echo Interrupted system call >&2; exit 1")
    with pytest.raises(UnavailableError):
        await CommandLineView().update("7", Partition="batch")
    assert 2 <= len((tmp_path / "calls").read_text().splitlines()) <= 5


@pytest.mark.parametrize("message", ["Resource temporarily unavailable", "Interrupted system call"])
async def test_an_update_that_slurm_wants_again_is_made_again_and_again(
    programs: Programs, tmp_path: Path, message: str
) -> None:
    programs.write(
        "scontrol",
        f"echo x >>{tmp_path}/calls; [ $(wc -l <{tmp_path}/calls) -gt 60 ] || "
        f"{{ echo 'slurm_update error: {message}' >&2; exit 1; }}",
    )
    counted = "overspill_slurm_change_retries_total"
    before = REGISTRY.get_sample_value(counted) or 0.0
    await CommandLineView().update("7", Partition="batch")
    assert REGISTRY.get_sample_value(counted) == before + 60


async def test_field_values_reach_slurm_as_they_are(programs: Programs, tmp_path: Path) -> None:
    programs.write("scontrol", f"printf '%s\\n' \"$@\" >{tmp_path}/argv")
    await CommandLineView().update("7", AdminComment='{"a": "b; $(touch x) `c`"}')
    assert (tmp_path / "argv").read_text().splitlines() == [
        "update",
        "JobId=7",
        'AdminComment={"a": "b; $(touch x) `c`"}',
    ]
