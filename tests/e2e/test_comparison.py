"""The oracle is Slurm itself: each script runs on `batch` and diverted, and nothing may differ."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import pytest

from tests.e2e.cases import CASES, Case
from tests.rig import Rig

_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Ending:
    """What a user can see of a job that is over."""

    state: str
    exit_code: str
    stdout: bytes
    stderr: bytes


def _run(rig: Rig, case: Case, *, option: str) -> tuple[Ending, str]:
    """Run the case with one more sbatch option; return how it ended and the partition that it ran in."""
    directory = f"/home/alice/compare/{case.name}"
    folder = rig.cluster.path(directory)
    way = option.removeprefix("--overspill=")
    script = case.script.encode() if isinstance(case.script, str) else case.script
    rig.cluster.run(["mkdir", "-p", directory], user="alice", check=True)
    rig.cluster.write(f"{directory}/job.sh", script, user="alice")
    rig.cluster.write(f"{directory}/stdin.bin", case.stdin or b"", user="alice")
    options = ["--parsable", option, f"--output={way}.out", *case.options]
    if case.has_separate_stderr:
        options.append(f"--error={way}.err")
    command = shlex.join(["sbatch", *options, "job.sh", *case.arguments])
    submitted = rig.cluster.run(
        ["bash", "-c", f"{case.prelude or ':'}; exec {command}"],
        user="alice",
        cwd=directory,
        env=case.environment,
        check=True,
    )
    job = rig.wait_for_state(int(submitted.stdout.strip()), _ENDED, timeout_s=60)
    return Ending(
        state=job["JobState"],
        exit_code=job["ExitCode"],
        stdout=(folder / f"{way}.out").read_bytes(),
        stderr=(folder / f"{way}.err").read_bytes() if case.has_separate_stderr else b"",
    ), job["Partition"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_diverted_script_ends_and_prints_as_a_local_one(rig: Rig, case: Case) -> None:
    local, local_partition = _run(rig, case, option="--overspill=never")
    diverted, diverted_partition = _run(rig, case, option="--overspill=always")
    assert (local_partition, diverted_partition) == ("batch", "overspill")
    assert diverted == local
