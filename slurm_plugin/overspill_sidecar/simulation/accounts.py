"""What the diverted jobs of each account have, as time goes by: jobs now, and CPU time of the day."""

from __future__ import annotations

from collections import defaultdict

from overspill_sidecar.decision.budget import UNLIMITED_S, AccountUse, Budget, day_start_s
from overspill_sidecar.policy import Policy
from overspill_sidecar.simulation.workload import ReplayedJob

_NOTHING = AccountUse()


class AccountLedger:
    """Counts as the router does (`decision/budget.py`), from starts and ends. Time never goes back."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._claims: defaultdict[str, AccountUse] = defaultdict(AccountUse)
        self._ended: defaultdict[str, AccountUse] = defaultdict(AccountUse)
        self._day_s = 0.0

    def why_too_much(self, job: ReplayedJob, now_s: float) -> str | None:
        """Return the stable reason why the job's account may have no more, None if it may."""
        account, policy = job.past.account, self._policy
        if not policy.has_budgets:
            return None
        if not account:
            return "account_unknown"
        self._begin_day(now_s)
        used = self._claims.get(account, _NOTHING) + self._ended.get(account, _NOTHING)
        limits = policy.max_account_jobs(account), policy.max_cpu_hours(account)
        return Budget(account, used, _claim(job), *limits).reason

    def take(self, job: ReplayedJob) -> None:
        self._claims[job.past.account] += _claim(job)

    def end(self, job: ReplayedJob, start_s: float, end_s: float) -> None:
        """Turn the claim of a job that was taken into what it has had today."""
        account = job.past.account
        self._claims[account] -= _claim(job)
        self._begin_day(end_s)
        self._ended[account] += AccountUse(cpu_s=round(job.past.cpus * (end_s - max(start_s, self._day_s))))

    def _begin_day(self, now_s: float) -> None:
        day_s = day_start_s(now_s)
        if day_s != self._day_s:
            self._day_s = day_s
            self._ended.clear()


def _claim(job: ReplayedJob) -> AccountUse:
    limit_s = job.past.time_limit_s
    return AccountUse(1, job.past.cpus * (UNLIMITED_S if limit_s is None else limit_s))
