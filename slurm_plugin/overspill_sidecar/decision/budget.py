"""What the diverted jobs of an account have, and what the admin allows them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time

from overspill_sidecar.cluster import Job
from overspill_sidecar.decision.shape import Shape
from overspill_sidecar.policy import Policy

HOUR_S = 3600
#: A job without a time limit: more than any budget holds, and a number that can be added and taken off again.
UNLIMITED_S = 10**15


@dataclass(frozen=True, slots=True)
class AccountUse:
    """What counts of an account: jobs and array tasks now, and CPU-seconds of today.

    A job that is not over counts with all that it may use, the CPUs that it asks for times its time limit, whenever it
    began; one that is over with what it had from the beginning of the day on.
    """

    jobs: int = 0
    cpu_s: int = 0

    def __add__(self, other: AccountUse) -> AccountUse:
        return AccountUse(self.jobs + other.jobs, self.cpu_s + other.cpu_s)

    def __sub__(self, other: AccountUse) -> AccountUse:
        return AccountUse(self.jobs - other.jobs, self.cpu_s - other.cpu_s)


@dataclass(frozen=True, slots=True)
class Budget:
    """What an account has, what one more job would add, and what is allowed; None is unlimited."""

    account: str
    used: AccountUse
    asked: AccountUse
    max_jobs: int | None
    max_cpu_hours: int | None

    @property
    def reason(self) -> str | None:
        """The stable reason why the job is too much, None if it is not."""
        total = self.used + self.asked
        if self.max_jobs is not None and total.jobs > self.max_jobs:
            return "max_jobs_per_account"
        if self.max_cpu_hours is not None and total.cpu_s > self.max_cpu_hours * HOUR_S:
            return "max_cpu_hours"
        return None


def use_of(shape: Shape) -> AccountUse:
    """Return what a job may use: of an array, the tasks that run at once, and the CPU time of all."""
    return AccountUse(shape.slots, shape.cpus * shape.tasks * _limit_s(shape.time_limit_s))


def budget_of(account: str, policy: Policy, used: AccountUse, asked: AccountUse) -> Budget:
    """Return what the words allow an account, with what it has and what one more job would add."""
    return Budget(account, used, asked, policy.max_account_jobs(account), policy.max_cpu_hours(account))


def claims(jobs: Iterable[Job]) -> Mapping[str, AccountUse]:
    """Return what the diverted jobs that are not over come to, by account; those held or waiting for others too.

    A job that may still start at home counts: it may as well start at a site.
    """
    found: defaultdict[str, AccountUse] = defaultdict(AccountUse)
    for job in jobs:
        if job.is_diverted:
            cpu_s = job.cpus * job.all_tasks * _limit_s(job.time_limit_s)
            found[job.account] += AccountUse(job.tasks, cpu_s)
    return dict(found)


def together(*parts: Mapping[str, AccountUse]) -> Mapping[str, AccountUse]:
    """Return the sums by account."""
    total: defaultdict[str, AccountUse] = defaultdict(AccountUse)
    for part in parts:
        for account, use in part.items():
            total[account] += use
    return dict(total)


def day_start_s(unix_time_s: float) -> float:
    """Return when the day began that this moment belongs to, by this host's time zone; both Unix seconds."""
    today = datetime.fromtimestamp(unix_time_s).astimezone().date()
    return datetime.combine(today, time()).astimezone().timestamp()


def _limit_s(time_limit_s: int | None) -> int:
    return UNLIMITED_S if time_limit_s is None else time_limit_s
