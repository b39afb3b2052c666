"""The standard workload format, in which the Parallel Workloads Archive keeps the logs of many sites.

Source: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html: 18 numbers to a line, -1 is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from overspill_sidecar.history.lines import OnBadLine, read_lines
from overspill_sidecar.history.past_job import PastJob

_FIELDS = 18
#: Partition of jobs of which the log tells neither queue nor partition: policies need a name for it.
NO_PARTITION = "all"
#: A part of a job that was checkpointed: the line for the whole job stands beside these.
_PARTIAL = frozenset({2, 3, 4})
_MAX_PROCESSORS = re.compile(r";\s*MaxProcs:\s*(\d+)")


def read_swf(lines: Iterable[str], on_bad_line: OnBadLine | None = None) -> Iterator[PastJob]:
    """Read jobs; times count from the log's own origin. Comments and parts of checkpointed jobs are passed over.

    Raises:
        InvalidRequestError: if a line cannot be read and `on_bad_line` is not there to take note of it.
    """
    return read_lines(enumerate(lines, start=1), _parse, "line of the standard workload format", on_bad_line)


def processors_of_swf(lines: Iterable[str]) -> int | None:
    """Return the machine's processors as the log's header tells them; None if it does not."""
    for line in lines:
        if not line.startswith(";"):
            return None
        if match := _MAX_PROCESSORS.match(line):
            return int(match[1])
    return None


def _parse(line: str) -> PastJob | None:
    if not line.strip() or line.lstrip().startswith(";"):
        return None
    values = _numbers(line)
    if len(values) != _FIELDS:
        raise ValueError(f"{len(values)} numbers, {_FIELDS} make a job")
    job_id, submit, wait, run_time, got = (int(value) for value in values[:5])
    asked, requested_time, status = int(values[7]), int(values[8]), int(values[10])
    if status in _PARTIAL or wait < 0 or max(asked, got) <= 0:
        return None
    left_s = float(submit + wait)
    has_run = run_time >= 0 and got != 0
    return PastJob(
        job_id=str(job_id),
        submit_s=float(submit),
        start_s=left_s if has_run else None,
        end_s=left_s + run_time if has_run else left_s,
        cpus=asked if asked > 0 else got,
        time_limit_s=requested_time if requested_time > 0 else None,
        user=_label(values[11]),
        partition=_partition(values[14], values[15]),
    )


def _numbers(line: str) -> list[float]:
    try:
        values = [float(value) for value in line.split()]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise ValueError("it holds something other than numbers")
    return values


def _partition(*numbers: float) -> str:
    """Return the numbers of queue and partition, as `1.2`, without those that the log does not tell."""
    return ".".join(_label(number) for number in numbers if number >= 0) or NO_PARTITION


def _label(number: float) -> str:
    return "" if number < 0 else str(int(number))
