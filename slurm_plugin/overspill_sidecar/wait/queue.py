"""The queue as the wait model sees it, brought up to date by each event in a few microseconds, never rebuilt."""

from __future__ import annotations

from collections.abc import Mapping

from overspill_sidecar.wait.accounts import PartitionShare, Share, Shares, UserShare
from overspill_sidecar.wait.crowd import Crowd
from overspill_sidecar.wait.decaying import DecayingSum, RecentMean
from overspill_sidecar.wait.lookalikes import Lookalikes
from overspill_sidecar.wait.order import ServiceOrder
from overspill_sidecar.wait.releases import Releases
from overspill_sidecar.wait.run_times import RunTimes
from overspill_sidecar.wait.tracked import Tracked, track
from overspill_sidecar.wait.waiting import WaitingJob

#: Users and partitions that something is remembered of.
_KEPT_USERS, _KEPT_PARTITIONS = 20_000, 1_000
#: Rates are counted over ten minutes, an hour and six hours.
HALF_LIVES_S = (600.0, 3600.0, 21600.0)
RATES = ("submitted", "submitted_work", "started", "started_work", "prompt", "ended_work")
#: A start so soon after the submission is prompt.
_PROMPT_S = 120.0
#: Before any job has ended, jobs are taken to use half of their limits.
_USUAL_SHARE = 0.5
_SHARE_OF_ALL, _SHARE_OF_USER = 0.02, 0.2


class QueueState:
    """Pending and running jobs, and what is remembered of those before."""

    __slots__ = (
        *("cpus", "crowd", "estimates", "everybody", "limits", "lookalikes", "order"),
        *("partitions", "rates", "run_times", "running", "share_of_limit", "users"),
    )

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.everybody = Share()
        self.running: dict[int | str, Tracked] = {}
        self.crowd = Crowd()
        self.users: Shares[UserShare] = Shares(_KEPT_USERS)
        self.partitions: Shares[PartitionShare] = Shares(_KEPT_PARTITIONS)
        self.lookalikes = Lookalikes()
        self.order = ServiceOrder(self.users)
        #: Releases as the time limits have them, and as jobs are expected to run.
        self.limits = Releases()
        self.estimates = Releases()
        self.rates = {name: tuple(DecayingSum(half_life) for half_life in HALF_LIVES_S) for name in RATES}
        self.share_of_limit = RecentMean()
        self.run_times = RunTimes()

    @property
    def pending(self) -> Mapping[int | str, Tracked]:
        """Pending jobs, as they were submitted."""
        return self.everybody.pending

    @property
    def usual_share(self) -> float:
        """Which share of their time limits jobs use."""
        return self.share_of_limit.or_else(_USUAL_SHARE)

    def sum_up(self) -> None:
        """Work out every sum that would be worked out when it is asked for: until the next event, nothing changes."""
        self.limits.sum_up()
        self.estimates.sum_up()
        for partition in self.partitions.entries.values():
            partition.releases.sum_up()

    def look_at(self, job: WaitingJob) -> Tracked:
        """Return the record of a job that is not in the queue (yet)."""
        user = self.users.get(job.user)
        return track(job, user.expected_s if user else None, self.usual_share)

    def submitted(self, job: Tracked) -> None:
        self.everybody.submitted(job)
        self.crowd.join(job)
        user = self.users.made(job.user, UserShare)
        user.submitted(job)
        user.last_job = job
        self.partitions.made(job.partition, PartitionShare).submitted(job)
        self.lookalikes.submitted(job)
        self._count("submitted", 1.0, job.submit_s)
        self._count("submitted_work", job.work, job.submit_s)

    def started(self, job: Tracked, now_s: float, key: int | str) -> None:
        """Move a pending job to the running ones, where it has this key."""
        self._leave_queue(job)
        self.order.started(job, self.pending, now_s)
        job.key = key
        job.start_s = now_s
        self.running[job.key] = job
        self.everybody.started(job, now_s)
        self.crowd.note_start(job, now_s)
        self.lookalikes.started(job, now_s)
        self.limits.add(now_s + job.limit_s, job.cpus)
        self.estimates.add(now_s + job.estimate_s, job.cpus)
        user = self.users.made(job.user, UserShare)
        user.started(job, now_s)
        user.usage.add(job.work, now_s)
        partition = self.partitions.made(job.partition, PartitionShare)
        partition.started(job, now_s)
        partition.releases.add(now_s + job.estimate_s, job.cpus)
        self._count("started", 1.0, now_s)
        self._count("started_work", job.work, now_s)
        if now_s - job.submit_s < _PROMPT_S:
            self._count("prompt", 1.0, now_s)

    def ended(self, job: Tracked, now_s: float) -> None:
        """Let a running job go."""
        start_s = now_s if job.start_s is None else job.start_s
        ran_s = max(0.0, now_s - start_s)
        del self.running[job.key]
        self.everybody.ended(job, now_s)
        self.limits.remove(start_s + job.limit_s, job.cpus)
        self.estimates.remove(start_s + job.estimate_s, job.cpus)
        share = min(1.0, ran_s / job.limit_s)
        self.share_of_limit.add(share, _SHARE_OF_ALL)
        user = self.users.made(job.user, UserShare)
        user.ended(job, now_s)
        user.usage.add(job.cpus * (ran_s - job.estimate_s), now_s)
        user.run_times_s.append(ran_s)
        self.run_times.ended(job, ran_s)
        user.share_of_limit.add(share, _SHARE_OF_USER)
        partition = self.partitions.made(job.partition, PartitionShare)
        partition.ended(job, now_s)
        partition.releases.remove(start_s + job.estimate_s, job.cpus)
        self._count("ended_work", job.cpus * ran_s, now_s)

    def removed(self, job: Tracked) -> None:
        """Let a pending job go that does not start here; what was counted of its submission stays counted."""
        self._leave_queue(job)
        job.is_gone = True

    def _leave_queue(self, job: Tracked) -> None:
        self.everybody.left_queue(job)
        self.crowd.leave(job)
        self.users.made(job.user, UserShare).left_queue(job)
        self.partitions.made(job.partition, PartitionShare).left_queue(job)

    def _count(self, name: str, amount: float, now_s: float) -> None:
        for rate in self.rates[name]:
            rate.add(amount, now_s)
