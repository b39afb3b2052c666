"""The wait model of the router, told of a simulated queue instead of Slurm's."""

from __future__ import annotations

from collections.abc import Hashable

from overspill_sidecar.simulation.pool import Change
from overspill_sidecar.simulation.workload import ReplayedJob
from overspill_sidecar.wait import LIKELIER_THAN_NOT, LearnedWait, OnlineModel, Outlook, WaitEstimate, WaitingJob, trees
from overspill_sidecar.wait.replay import waiting_job


class Learned:
    """Begins with no knowledge and learns from jobs at home."""

    def __init__(self, cpus: int, *, with_trees: bool = False) -> None:
        """Know nothing.

        Args:
            cpus: of the whole cluster.
            with_trees: whether boosted trees are fitted, at the same numbers of jobs as in the router, and asked at
                once. Each fit takes seconds.
        """
        self._model = OnlineModel(cpus)
        self._with_trees = with_trees
        self._asked: WaitingJob | None = None
        #: What was said at one moment of jobs that are alike, as if they came then.
        self._said_at_s = 0.0
        self._said: dict[Hashable, Outlook] = {}

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:
        return self._model.predict(self._waiting(job), job.at_s).p_exceeds(threshold_s) > LIKELIER_THAN_NOT

    def outlook(self, job: ReplayedJob, now_s: float) -> WaitEstimate | None:
        if now_s != self._said_at_s:
            self._said_at_s, self._said = now_s, {}
        alike = waiting_job(job.past, 0)._replace(submit_s=now_s)
        fresh = self._said.get(alike)
        if fresh is None:
            fresh = self._said[alike] = self._model.outlook_of(alike, now_s)
        whole = Outlook(fresh.exceeds, now_s - job.at_s, fresh.upper_s)
        return LearnedWait(whole)

    def submitted(self, job: ReplayedJob) -> None:
        self._model.submitted(self._waiting(job))
        if self._with_trees and self._model.wants_trees():
            self._model.take_trees(trees.fit(self._model.training_set(job.at_s)))

    def withdrawn(self, job: ReplayedJob, now_s: float) -> None:
        self._model.removed(job.key, now_s)

    def changed(self, job: ReplayedJob, change: Change) -> None:
        if change.has_started:
            self._model.started(job.key, change.at_s)
        else:
            self._model.ended(job.key, change.at_s)

    def _waiting(self, job: ReplayedJob) -> WaitingJob:
        """Return the job as the model wants it: the same object twice, so that it need not think twice."""
        if self._asked is None or self._asked.key != job.key:
            self._asked = waiting_job(job.past, job.key)._replace(submit_s=job.at_s)
        return self._asked
