"""`WaitModel` that asks the learned model, in whatever state that is when it is asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import ClassVar

from overspill_sidecar.cluster import Job
from overspill_sidecar.wait.following import Following, Shape
from overspill_sidecar.wait.model import QueuedJob, WaitEstimate, waited_s
from overspill_sidecar.wait.outlook import Outlook
from overspill_sidecar.wait.turns import Turns
from overspill_sidecar.wait.waiting import WaitingJob

#: The model changes by single events, each of which takes up to about two milliseconds. On a machine that has no time
#: for us it may be more; whoever asks then goes without, while his own deadline still leaves him time for the rest.
_PATIENCE_S = 0.015
#: Pending jobs that are asked about anew in a second, about: a twentieth of a core. Of 10,000 the answers are up to
#: 100 s old, of a few never older than the snapshot; how long each job has waited is always that of the moment.
_ASKED_A_SECOND = 100.0
#: Jobs like those that were submitted within the last hour are the likeliest to be submitted next: on three recorded
#: logs they were 42, 59 and 74 % of all. So many of them are answered before they are: first those that came more than
#: once, of these the latest.
_AGAIN_S, _MOST_PREPARED = 3600.0, 128
#: The snapshot waits for these answers. Behind a long queue one takes milliseconds: then only the first are ready.
_PREPARING_S = 0.1
#: In a partition that starts no jobs.
_ENDLESS = WaitEstimate(math.inf, is_upper_bound=False)

#: What was said of pending jobs, when, Unix seconds, and of which shape of theirs; by job id and partition.
Said = dict[tuple[int, str], tuple[float, Shape, Outlook]]
#: What was submitted, whether more than once, and when last, Unix seconds.
Submitted = dict[QueuedJob, tuple[bool, float]]


class LearnedWait(WaitEstimate):
    """What the learned model says."""

    MODEL: ClassVar[str] = "learned"

    outlook: Outlook

    def __init__(self, outlook: Outlook) -> None:
        object.__setattr__(self, "is_upper_bound", False)
        object.__setattr__(self, "outlook", outlook)

    @cached_property
    def median_s(self) -> float:
        """Found when it is asked for: of most pending jobs nobody asks."""
        return self.outlook.median_s

    def p_exceeds(self, threshold_s: float) -> float:
        return self.outlook.p_exceeds(threshold_s)


class LearnedModel:
    """Any thread may ask. To who submits a job, a model that is busy for long knows nothing.

    Between two snapshots the model learns nothing, so jobs that are alike have one answer.
    """

    def __init__(
        self,
        following: Following,
        turns: Turns,
        users: Mapping[int, str],
        clock: Callable[[], float],
        *,
        said: Said,
        submitted: Submitted,
    ) -> None:
        """Ask this model.

        Args:
            following: keeps the model in step with Slurm.
            turns: taken while the model is asked or told.
            users: names by user id, of the users who have jobs.
            clock: Unix time.
            said: of pending jobs, as if they were submitted now: what was said before, and is said from now on, be it
                by the model of an earlier snapshot that somebody still asks.
            submitted: what was submitted before, and is from now on.
        """
        self._following = following
        self._turns = turns
        self._users = users
        self._clock = clock
        self._said = said
        self._submitted = submitted
        self._of_submitted: dict[QueuedJob, WaitEstimate] = {}
        self._of_pending: dict[WaitingJob, Outlook] = {}

    def prepare(self) -> None:
        """Have the answers ready for jobs like those that were submitted of late, and forget the others.

        As many as there is time for: nobody is in a hurry for them yet, so whoever is comes in between.
        """
        now_s, ends_at = self._clock(), time.monotonic() + _PREPARING_S
        likeliest = sorted(self._submitted.items(), key=lambda item: item[1], reverse=True)
        for place, (job, (_, at_s)) in enumerate(likeliest):
            if place >= _MOST_PREPARED or now_s - at_s > _AGAIN_S:
                del self._submitted[job]
            elif time.monotonic() < ends_at:
                waiting = self._waiting(job, now_s)
                if waiting.facts.starts_jobs is not False:
                    with self._turns:
                        self._of_submitted[job] = LearnedWait(self._following.model.outlook_of(waiting, now_s))

    def predict(self, job: QueuedJob) -> WaitEstimate | None:
        self._submitted[job] = job in self._submitted, self._clock()
        estimate = self._of_submitted.get(job)
        if estimate is None:
            estimate = self._predicted(job)
            if estimate is not None:
                self._of_submitted[job] = estimate
        return estimate

    def _predicted(self, job: QueuedJob) -> WaitEstimate | None:
        now_s = self._clock()
        waiting = self._waiting(job, now_s)
        if waiting.facts.starts_jobs is False:
            return _ENDLESS
        if not self._turns.take_next(_PATIENCE_S):
            return None
        try:
            return LearnedWait(self._following.model.outlook_of(waiting, now_s))
        finally:
            self._turns.give_up()

    def pending(self, job: Job, partition: str) -> WaitEstimate | None:
        """Of an array, whose tasks are asked about as one, the answer is that for a task.

        An answer is good for a while: the whole queue may be looked through, again and again. Not all grow old at once.
        """
        now_s, known_as = self._clock(), (job.slurm_job_id, partition)
        shape = self._following.shape_of(job, partition, now_s)
        said_at_s, said_of, outlook = self._said.get(known_as, (-math.inf, None, None))
        good_for_s = len(self._said) / _ASKED_A_SECOND * (0.5 + job.slurm_job_id % 100 / 200)
        if outlook is None or said_of != shape or now_s - said_at_s > good_for_s:
            waiting = self._following.waiting_job(job, partition)
            if waiting.facts.starts_jobs is False:
                return _ENDLESS
            outlook = self._about_pending(waiting, now_s)
            self._said[known_as] = now_s, shape, outlook
        return LearnedWait(Outlook(outlook.exceeds, waited_s(job, now_s), outlook.upper_s))

    def _about_pending(self, waiting: WaitingJob, now_s: float) -> Outlook:
        alike = waiting._replace(submit_s=0.0)
        outlook = self._of_pending.get(alike)
        if outlook is None:
            with self._turns:
                outlook = self._following.model.outlook_of(waiting, now_s)
            self._of_pending[alike] = outlook
        return outlook

    def observe(self, job: QueuedJob) -> None:
        """Pass it over: the next snapshot shows it, and a job that was judged too well is looked at again later.

        What the model counts it counts for good: a job that came twice would make the queue look busier than it is.
        """

    def _waiting(self, job: QueuedJob, now_s: float) -> WaitingJob:
        user = self._users.get(job.user_id, str(job.user_id)) if job.user_id is not None else ""
        return WaitingJob.of(job, "", now_s, user, self._following.facts_for(job))


def forget_all_but(jobs: Iterable[Job], said: Said) -> None:
    """Forget what was said of any but those of `jobs` that are pending. Others may go on to say something meanwhile."""
    pending = {job.slurm_job_id for job in jobs if job.is_pending}
    for known_as in list(said):
        if known_as[0] not in pending:
            said.pop(known_as, None)
