"""What a policy came to: numbers over jobs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from overspill_sidecar.simulation.replay import Fate, Played
from overspill_sidecar.simulation.workload import ReplayedJob

_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Counted:
    """One job that counts: what became of it, and how long it waits where nothing is diverted."""

    job: ReplayedJob
    fate: Fate
    never_wait_s: float


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over jobs.

    Attributes:
        diverted: with the mode shadow those that would have been.
        late: of these those that were let go after they had waited.
        needless: diverted, but would have waited no longer at home than the policy allows.
        missed: waited longer, although the policy lets them go and a site could have started them at once.
        over_threshold: waited longer than the policy allows, for whatever reason.
        never_wait_s: the sum of waits where nothing is diverted.
        diverted_cpu_hours: what the diverted jobs ran.
        cost: of these, by the prices of their sites.
    """

    jobs: int
    diverted: int
    late: int
    needless: int
    missed: int
    over_threshold: int
    wait_s: float
    never_wait_s: float
    diverted_cpu_hours: float
    cost: float

    @property
    def saved_s(self) -> float:
        return self.never_wait_s - self.wait_s

    @property
    def mean_wait_s(self) -> float:
        return self.wait_s / self.jobs

    @property
    def never_mean_wait_s(self) -> float:
        return self.never_wait_s / self.jobs


def counted(jobs: Sequence[ReplayedJob], played: Played, never: Played, counted_from: int) -> tuple[Counted, ...]:
    """Return the jobs that count, with their waits in both."""
    fates = zip(jobs, played.fates, never.fates, strict=True)
    return tuple(Counted(job, fate, base.wait_s) for job, fate, base in fates if job.key >= counted_from)


def tally(rows: Sequence[Counted]) -> Tally:
    """Return the sums over at least one job."""
    hours = [(row.fate.chosen, row.job.run_s * row.job.past.cpus / _HOUR_S) for row in rows]
    return Tally(
        jobs=len(rows),
        diverted=sum(row.fate.is_chosen for row in rows),
        late=sum(row.fate.is_late for row in rows),
        needless=sum(row.fate.is_needless for row in rows),
        missed=sum(row.fate.is_missed for row in rows),
        over_threshold=sum(row.fate.waits_too_long for row in rows),
        wait_s=sum(row.fate.wait_s for row in rows),
        never_wait_s=sum(row.never_wait_s for row in rows),
        diverted_cpu_hours=sum(each for site, each in hours if site),
        cost=sum(site.price * each for site, each in hours if site),
    )


def tallies(rows: Iterable[Counted], name_of: Callable[[Counted], str | None]) -> Mapping[str, Tally]:
    """Return the sums of each group of jobs, without those of no group: the groups with the most diverted first."""
    groups: defaultdict[str, list[Counted]] = defaultdict(list)
    for row in rows:
        if (name := name_of(row)) is not None:
            groups[name].append(row)
    found = {name: tally(members) for name, members in groups.items()}
    return dict(sorted(found.items(), key=lambda item: (-item[1].diverted, -item[1].jobs, item[0])))


def reasons(rows: Iterable[Counted]) -> Mapping[str, int]:
    """Return how many jobs went or stayed for each reason, the most frequent first."""
    found = Counter(row.fate.reason for row in rows)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed, one of them; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
