"""How many CPUs of the sites are in use, and how long jobs wait, as time goes by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from overspill_sidecar.simulation.remote import Usage
from overspill_sidecar.simulation.tally import Counted

#: Lengths of a span that people count time in; the longest makes long histories coarse.
_SPANS_S = (600, 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400)
_MOST_SPANS = 370


@dataclass(frozen=True, slots=True)
class Span:
    """What was between `at_s` and the next span's; waits are means over the jobs that came in it, None if none did."""

    at_s: float
    remote_cpus_mean: float
    remote_cpus_max: int
    jobs: int
    diverted: int
    late: int
    needless: int
    missed: int
    mean_wait_s: float | None
    never_mean_wait_s: float | None


@dataclass(frozen=True, slots=True)
class Need:
    """What the diverted jobs had of the sites at one time: at most, and at all but the busiest 5 % of all times."""

    peak_cpus: int
    p95_cpus: int
    mean_cpus: float
    peak_jobs: int


@dataclass(frozen=True, slots=True)
class _Level:
    start_s: float
    end_s: float
    cpus: int
    jobs: int


def span_s(length_s: float) -> int:
    """Return the length of spans that a time is cut into, so that there are not too many."""
    return next((span for span in _SPANS_S if length_s / span <= _MOST_SPANS), _SPANS_S[-1])


def need(usage: Iterable[Usage], start_s: float, end_s: float) -> Need:
    """Return what was needed from `start_s` to `end_s`."""
    levels = list(_levels(usage, start_s, end_s))
    length_s = max(end_s - start_s, 1.0)
    return Need(
        peak_cpus=max((level.cpus for level in levels), default=0),
        p95_cpus=_exceeded_for(levels, 0.05 * length_s),
        mean_cpus=sum(level.cpus * (level.end_s - level.start_s) for level in levels) / length_s,
        peak_jobs=max((level.jobs for level in levels), default=0),
    )


def spans(rows: Sequence[Counted], usage: Iterable[Usage]) -> tuple[Span, ...]:
    """Cut the time in which jobs came into spans, each at least as long as `span_s` says."""
    start_s, end_s = rows[0].job.at_s, rows[-1].job.at_s
    length_s = span_s(end_s - start_s)
    first = math.floor(start_s / length_s)
    count = math.floor(end_s / length_s) - first + 1
    members: list[list[Counted]] = [[] for _ in range(count)]
    for row in rows:
        members[math.floor(row.job.at_s / length_s) - first].append(row)
    means, peaks = [0.0] * count, [0] * count
    for level in _levels(usage, first * length_s, (first + count) * length_s):
        for index in range(math.floor(level.start_s / length_s) - first, count):
            overlap_s = min(level.end_s, (first + index + 1) * length_s) - max(
                level.start_s, (first + index) * length_s
            )
            if overlap_s <= 0:
                break
            means[index] += level.cpus * overlap_s / length_s
            peaks[index] = max(peaks[index], level.cpus)
    return tuple(
        _span((first + index) * length_s, members[index], means[index], peaks[index]) for index in range(count)
    )


def _span(at_s: float, rows: Sequence[Counted], mean: float, peak: int) -> Span:
    return Span(
        at_s=at_s,
        remote_cpus_mean=mean,
        remote_cpus_max=peak,
        jobs=len(rows),
        diverted=sum(row.fate.is_chosen for row in rows),
        late=sum(row.fate.is_late for row in rows),
        needless=sum(row.fate.is_needless for row in rows),
        missed=sum(row.fate.is_missed for row in rows),
        mean_wait_s=sum(row.fate.wait_s for row in rows) / len(rows) if rows else None,
        never_mean_wait_s=sum(row.never_wait_s for row in rows) / len(rows) if rows else None,
    )


def _levels(usage: Iterable[Usage], start_s: float, end_s: float) -> Iterator[_Level]:
    """Yield how many CPUs and jobs were there, in order of time, within these bounds."""
    changes = sorted(
        change for used in usage for change in ((used.start_s, used.cpus, 1), (used.end_s, -used.cpus, -1))
    )
    cpus = jobs = 0
    since_s = -math.inf
    for at_s, more_cpus, more_jobs in [*changes, (math.inf, 0, 0)]:
        low_s, high_s = max(since_s, start_s), min(at_s, end_s)
        if low_s < high_s:
            yield _Level(low_s, high_s, cpus, jobs)
        cpus, jobs, since_s = cpus + more_cpus, jobs + more_jobs, at_s


def _exceeded_for(levels: Iterable[_Level], seconds: float) -> int:
    """Return the fewest CPUs that are exceeded for no longer than this."""
    for level in sorted(levels, key=lambda level: -level.cpus):
        seconds -= level.end_s - level.start_s
        if seconds < 0:
            return level.cpus
    return 0
