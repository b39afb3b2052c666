"""Running one of Slurm's commands: argv in, text out, within a deadline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overspill.errors import UnavailableError
from overspill_sidecar import metrics
from overspill_sidecar.subprocesses import run_raw

#: Times as Unix seconds whatever the zone, array expressions in full length. Source: squeue(1), ENVIRONMENT VARIABLES.
_SETTINGS = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Output:
    status: int
    stdout: str
    stderr: str


def environment() -> dict[str, str]:
    """Return the environment for Slurm's commands: ours without anything that bends their output."""
    bending = ("SQUEUE_", "SINFO_", "SCONTROL_", "SLURM_CLUSTERS", "SLURM_BITSTR_LEN", "SLURM_TIME_FORMAT")
    return {name: value for name, value in os.environ.items() if not name.startswith(bending)} | _SETTINGS


async def run(argv: Sequence[str], deadline_s: float, settings: Mapping[str, str] | None = None) -> Output:
    """Run `argv` to its end, with `settings` in its environment.

    Raises:
        UnavailableError: if it cannot be started or does not end within `deadline_s`; it is killed then.
    """
    try:
        raw = await run_raw(argv, deadline_s, env=environment() | dict(settings or {}))
    except UnavailableError:
        metrics.SLURM_FAILURES.labels(argv[0]).inc()
        raise
    return Output(raw.status, raw.stdout.decode("utf-8", "replace"), raw.stderr.decode("utf-8", "replace"))


def checked(argv: Sequence[str], output: Output) -> str:
    """Return the answer's text.

    Raises:
        UnavailableError: if the command failed, or complained and went on: squeue exits with 0 after a bad format.
    """
    if output.status != 0 or "error" in output.stderr:
        metrics.SLURM_FAILURES.labels(argv[0]).inc()
        raise UnavailableError(f"{argv[0]}: {output.stderr.strip() or f'exited with {output.status}'}")
    return output.stdout
