"""A simulated site whose waits come from what only Slurm knows: QOS, fair share, users' limits, and a plan of starts.

128 CPUs; conservative backfill by priority, which is QOS, fair share and age; a limited user's jobs wait for his own.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from overspill_sidecar.accounting import Accounting, Association, Counted, Limits, Qos
from overspill_sidecar.cluster import Job, Snapshot
from overspill_sidecar.wait.profile import Profile
from tests.unit.sidecar_cluster import CONFIG, NOW_S, job, node, partition

_CPUS, _USERS, _IN_A_HURRY, _LIMITED, _LIMIT = 128, 24, 4, 8, 24
_DAY_S = 86_400.0
_PLANNED_JOBS = 60
_NO_LIMITS = Limits(groups={}, job_tres={}, node_tres={}, job_minutes={}, wall_min=None)
_CONFIG = replace(
    CONFIG,
    enforced=frozenset({"associations", "limits", "qos"}),
    priority_weight_age=2000,
    priority_max_age_s=7 * 86_400,
)


@dataclass(slots=True)
class User:
    """One user's habits, and what he has used of late, CPU seconds that decay by half a day.

    Attributes:
        limit: CPUs that his jobs may have at once.
    """

    number: int
    cpus: int
    limit_s: int
    share_of_limit: float
    qos: str
    limit: float
    used: float = 0.0
    used_at_s: float = float(NOW_S)
    running_cpus: int = 0

    def use(self, cpu_s: float, now_s: float) -> None:
        self.used = self.used * 0.5 ** ((now_s - self.used_at_s) / (_DAY_S / 2)) + cpu_s
        self.used_at_s = now_s

    @property
    def name(self) -> str:
        return f"u{self.number}"


@dataclass(slots=True, eq=False)
class Work:
    """One job.

    Attributes:
        record: as squeue shows it.
        run_s: how long it will run, which nobody knows.
    """

    record: Job
    user: User
    run_s: float

    @property
    def submit_s(self) -> int:
        return self.record.submit_time_s

    def is_over_limit(self) -> bool:
        return self.user.running_cpus + self.record.cpus > self.user.limit


@dataclass(slots=True)
class Site:
    """The site at one moment, Unix seconds."""

    users: list[User]
    now_s: float = float(NOW_S)
    waiting: list[Work] = field(default_factory=list)
    running: list[tuple[float, int, Work]] = field(default_factory=list)

    @property
    def free(self) -> int:
        return _CPUS - sum(work.record.cpus for _, _, work in self.running)

    def submit(self, work: Work) -> None:
        self.waiting.append(work)
        self._schedule()

    def advance(self, until_s: float) -> None:
        """Let jobs end, and others start in their place, up to a moment."""
        while self.running and self.running[0][0] <= until_s:
            self.now_s, _, work = heapq.heappop(self.running)
            work.user.running_cpus -= work.record.cpus
            self._schedule()
        self.now_s = until_s

    def snapshot(self) -> Snapshot:
        """Return what Slurm would tell now."""
        jobs = tuple(work.record for work in (*self.waiting, *(each for *_, each in self.running)))
        host = replace(node("c1", _CPUS, 10**6), cpus_allocated=_CPUS - self.free)
        partitions = {"batch": partition(nodes=("c1",))}
        told = Snapshot(0.0, self.now_s, _CONFIG, jobs, partitions, {"c1": host}, self._accounting())
        return replace(told, reservations=())

    def _accounting(self) -> Accounting:
        associations: dict[tuple[str, int | None, str], Association] = {}
        for user in self.users:
            counted = {} if math.isinf(user.limit) else {"tres/cpu": Counted(user.limit, user.running_cpus)}
            limits = replace(_NO_LIMITS, groups=counted)
            associations["hpc", user.number, ""] = Association("hpc", user.number, "", "", True, limits)
        qos = {name: Qos(name, _NO_LIMITS, {}, {}) for name in ("normal", "high")}
        return Accounting(associations, {user.number: "hpc" for user in self.users}, qos)

    def _schedule(self) -> None:
        for work in self.waiting:
            work.record = replace(work.record, priority=self._priority(work))
        self.waiting.sort(key=lambda work: (-work.record.priority, work.record.slurm_job_id))
        profile = Profile(self.free, [(self._limit_end_s(work), work.record.cpus) for *_, work in self.running])
        planned = 0
        for work in list(self.waiting):
            if work.is_over_limit():
                work.record = replace(work.record, reason="AssocGrpCpuLimit", start_time_s=None)
                continue
            if planned == _PLANNED_JOBS:
                work.record = replace(work.record, reason="Priority", start_time_s=None)
                continue
            planned += 1
            limit_s = float(work.record.time_limit_s or 0)
            at_s = profile.earliest_s(work.record.cpus, limit_s)
            profile.take(at_s, work.record.cpus, limit_s)
            if at_s > 0:
                work.record = replace(work.record, reason="Priority", start_time_s=int(self.now_s + at_s))
            else:
                self._start(work)

    def _limit_end_s(self, work: Work) -> float:
        """Return in how many seconds its limit ends a running job."""
        return max(1.0, (work.record.end_time_s or 0) - self.now_s)

    def _start(self, work: Work) -> None:
        self.waiting.remove(work)
        work.user.running_cpus += work.record.cpus
        work.user.use(work.record.cpus * work.run_s, self.now_s)
        start_s = int(self.now_s)
        end_s = start_s + (work.record.time_limit_s or 0)
        work.record = replace(
            work.record, state="RUNNING", reason="None", nodes="c1", start_time_s=start_s, end_time_s=end_s
        )
        heapq.heappush(self.running, (self.now_s + work.run_s, work.record.slurm_job_id, work))

    def _priority(self, work: Work) -> int:
        user = work.user
        user.use(0.0, self.now_s)
        fair_share = 0.5 ** (user.used / (_CPUS * _DAY_S / 2 / len(self.users)))
        age = min(1.0, (self.now_s - work.submit_s) / _CONFIG.priority_max_age_s)
        return int(20_000 * (user.qos == "high") + 10_000 * fair_share + _CONFIG.priority_weight_age * age)


def site_of(seed: int) -> Site:
    """Return an idle site with its users."""
    drawn = random.Random(seed)  # noqa: S311 - a workload, not a secret
    return Site(
        [
            User(
                number=number,
                cpus=2 ** drawn.randrange(6),
                limit_s=1200 * 2 ** drawn.randrange(6),
                share_of_limit=drawn.uniform(0.1, 0.9),
                qos="high" if number < _IN_A_HURRY else "normal",
                limit=_LIMIT if number >= _USERS - _LIMITED else math.inf,
            )
            for number in range(_USERS)
        ]
    )


def submissions(site: Site, count: int, seed: int, load: float = 0.9) -> Iterator[Work]:
    """Yield jobs in order of their submission: users come in bursts of up to twelve jobs."""
    drawn = random.Random(seed)  # noqa: S311 - as above
    at_s, number = float(NOW_S), 0
    while number < count:
        user, burst = drawn.choice(site.users), 1 + int(drawn.expovariate(0.3)) % 12
        for _ in range(burst):
            number += 1
            cpus = min(user.cpus, _LIMIT)
            run_s = max(30.0, user.limit_s * min(1.0, drawn.lognormvariate(0, 0.5) * user.share_of_limit))
            at_s += drawn.expovariate(load * _CPUS / (cpus * run_s)) if number % burst == 0 else drawn.uniform(1, 20)
            yield Work(_record(number, user, cpus, int(at_s)), user, run_s)
        at_s += drawn.expovariate(1 / 600)


def _record(number: int, user: User, cpus: int, at_s: int) -> Job:
    return job(
        number,
        user_id=user.number,
        user_name=user.name,
        account="hpc",
        qos=user.qos,
        cpus=cpus,
        time_limit_s=user.limit_s,
        submit_time_s=at_s,
        eligible_time_s=at_s,
    )
