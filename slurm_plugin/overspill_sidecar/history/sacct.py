"""What `sacct` tells of past jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from overspill.errors import InvalidRequestError
from overspill_sidecar.history.lines import OnBadLine, parse_time_s, read_lines, required
from overspill_sidecar.history.past_job import PastJob

#: Source: sacct(1), --format. No field that a user writes freely, so that no job can forge another's line.
SACCT_FIELDS = (
    "JobIDRaw",
    "Submit",
    "Eligible",
    "Start",
    "End",
    "AllocNodes",
    "ReqNodes",
    "AllocCPUS",
    "ReqCPUS",
    "TimelimitRaw",
    "User",
    "Account",
    "Partition",
    "QOS",
    "Priority",
)
_NEEDED = frozenset({"JobIDRaw", "Submit", "Start", "End", "AllocNodes", "ReqCPUS", "User", "Partition"})


def sacct_argv(since: str) -> list[str]:
    """Return the command that prints what `read_sacct` reads: every attempt of every user's jobs since then.

    Args:
        since: as sacct takes it: `2026-10-01`, `now-30days`.
    """
    form = ",".join(SACCT_FIELDS)
    chosen = ("--allusers", "--allocations", "--duplicates", f"--starttime={since}")
    return ["sacct", "--parsable2", *chosen, f"--format={form}"]


def read_sacct(lines: Iterable[str], on_bad_line: OnBadLine | None = None) -> Iterator[PastJob]:
    """Read what `sacct --parsable2` printed, its header included: the header says which fields there are.

    Steps are passed over. Times may be Unix seconds (SLURM_TIME_FORMAT=%s) or this host's local time.

    Raises:
        InvalidRequestError: if there is no header with the fields that are needed, or if a line cannot be read and
            `on_bad_line` is not there to take note of it.
    """
    numbered = enumerate(lines, start=1)
    _, header = next(numbered, (1, ""))
    names = header.rstrip("\n").split("|")
    if missing := _NEEDED - set(names):
        raise InvalidRequestError(
            f"sacct's text lacks {', '.join(sorted(missing))} in its first line; print it with: "
            + " ".join(sacct_argv("now-30days"))
        )
    return read_lines(numbered, partial(_parse, names), "record of sacct", on_bad_line)


def _parse(names: list[str], line: str) -> PastJob | None:
    values = line.rstrip("\n").split("|")
    if len(values) != len(names):
        raise ValueError(f"{len(values)} fields, the first line has {len(names)}")
    field = dict(zip(names, values, strict=True))
    if "." in field["JobIDRaw"]:
        return None
    # A job that is cancelled while it waits has a start time, but no node.
    alloc_nodes = int(field["AllocNodes"] or 0)
    first, *others = field["Partition"].split(",")
    return PastJob(
        job_id=field["JobIDRaw"],
        submit_s=required(parse_time_s(field["Submit"]), "Submit"),
        start_s=parse_time_s(field["Start"]) if alloc_nodes else None,
        end_s=parse_time_s(field["End"]),
        cpus=_count(field, "AllocCPUS" if alloc_nodes else "ReqCPUS") or _count(field, "ReqCPUS") or 1,
        time_limit_s=_time_limit_s(field.get("TimelimitRaw", "")),
        user=field["User"],
        partition=first,
        eligible_s=parse_time_s(field.get("Eligible", "")),
        account=field.get("Account", ""),
        qos=field.get("QOS", ""),
        nodes=alloc_nodes or _count(field, "ReqNodes"),
        priority=_count(field, "Priority"),
        other_partitions=tuple(others),
    )


def _count(field: Mapping[str, str], name: str) -> int | None:
    text = field.get(name, "")
    return int(text) if text.isdecimal() else None


def _time_limit_s(minutes: str) -> int | None:
    """Return seconds from TimelimitRaw: minutes, or a word (`UNLIMITED`, `Partition_Limit`) for none."""
    return int(minutes) * 60 if minutes.isdecimal() else None
