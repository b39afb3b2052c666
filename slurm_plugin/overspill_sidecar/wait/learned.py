"""`WaitModel` that asks the learned model, in whatever state that is when it is asked."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from overspill_sidecar.cluster import Job
from overspill_sidecar.wait.following import Following
from overspill_sidecar.wait.model import QueuedJob, WaitEstimate, waited_s
from overspill_sidecar.wait.outlook import Outlook
from overspill_sidecar.wait.waiting import WaitingJob

#: The model is written to while it is saved, for some hundred milliseconds: whoever asks then goes without.
_PATIENCE_S = 0.005
#: In a partition that starts no jobs.
_ENDLESS = WaitEstimate(math.inf, is_upper_bound=False)


@dataclass(frozen=True, slots=True)
class LearnedWait(WaitEstimate):
    """What the learned model says."""

    outlook: Outlook

    def p_exceeds(self, threshold_s: float) -> float:
        return self.outlook.p_exceeds(threshold_s)


class LearnedModel:
    """Any thread may ask. A model that is busy for long knows nothing."""

    def __init__(
        self, following: Following, lock: threading.Lock, users: Mapping[int, str], clock: Callable[[], float]
    ) -> None:
        """Ask this model.

        Args:
            following: keeps the model in step with Slurm.
            lock: held while the model is asked or told.
            users: names by user id, of the users who have jobs.
            clock: Unix time.
        """
        self._following = following
        self._lock = lock
        self._users = users
        self._clock = clock
        #: Of pending jobs, as if they were submitted now.
        self._fresh: dict[WaitingJob, Outlook] = {}

    def predict(self, job: QueuedJob) -> WaitEstimate | None:
        now_s = self._clock()
        waiting = self._waiting(job, now_s)
        if waiting.facts.starts_jobs is False:
            return _ENDLESS
        outlook = self._ask(waiting, now_s)
        return None if outlook is None else _estimate(outlook)

    def pending(self, job: Job, partition: str) -> WaitEstimate | None:
        """Of an array, whose tasks are asked about as one, the answer is that for a task.

        The model is asked once for jobs that are alike: the whole queue may be looked through.
        """
        waiting = self._following.waiting_job(job, partition)
        if waiting.facts.starts_jobs is False:
            return _ENDLESS
        alike = replace(waiting, submit_s=0.0)
        now_s, fresh = self._clock(), self._fresh.get(alike)
        if fresh is None:
            fresh = self._ask(waiting, now_s)
            if fresh is None:
                return None
            self._fresh[alike] = fresh
        return _estimate(Outlook(fresh.exceeds, waited_s(job, now_s), fresh.upper_s))

    def _ask(self, waiting: WaitingJob, now_s: float) -> Outlook | None:
        """Return what the model says, None if it is busy: a submission may wait for whoever asks."""
        if not self._lock.acquire(timeout=_PATIENCE_S):
            return None
        try:
            return self._following.model.predict(waiting, now_s)
        finally:
            self._lock.release()

    def observe(self, job: QueuedJob) -> None:
        """Pass it over: the next snapshot shows it, and a job that was judged too well is looked at again later.

        What the model counts it counts for good: a job that came twice would make the queue look busier than it is.
        """

    def _waiting(self, job: QueuedJob, now_s: float) -> WaitingJob:
        user = self._users.get(job.user_id, str(job.user_id)) if job.user_id is not None else ""
        return WaitingJob(
            key="",
            submit_s=now_s,
            cpus=job.cpus,
            time_limit_s=job.time_limit_s,
            user=user,
            partition=job.partition,
            account=job.account,
            qos=job.qos,
            nodes=job.nodes,
            facts=self._following.facts_for(job),
        )


def _estimate(outlook: Outlook) -> LearnedWait:
    return LearnedWait(outlook.median_s, is_upper_bound=False, outlook=outlook)
