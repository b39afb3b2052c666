"""Slurm's job records as `scontrol` prints them, and what their states mean. Pure."""

from __future__ import annotations

import re

#: States that a job does not leave. Source: https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES
TERMINAL_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
_FIELD = re.compile(r"(?:^| )([A-Z][\w/:]*)=")
_DEAD_END_REASONS = ("launch_failed_requeued_held", "JobHeldAdmin", "DependencyNeverSatisfied", "BadConstraints")


def parse_job(line: str) -> dict[str, str]:
    """Return the fields of one line of `scontrol show job --oneliner`.

    A value may hold blanks. Of a name that occurs twice (a comment may hold anything), the first is taken. Blanks at a
    value's end are lost.
    """
    parts = _FIELD.split(line.strip())
    fields: dict[str, str] = {}
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        fields.setdefault(name, value.rstrip())
    return fields


def dead_end(job: dict[str, str], wanted: frozenset[str]) -> str | None:
    """Return why the job cannot get into a wanted state any more, None if it still may."""
    state, reason = job["JobState"], job["Reason"]
    if state in wanted:
        return None
    if state in TERMINAL_STATES:
        return f"it is {state}"
    if state == "PENDING" and reason.strip("()") in _DEAD_END_REASONS:
        return f"it is held: {reason}"
    return None
