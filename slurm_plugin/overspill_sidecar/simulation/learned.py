"""The wait model of the router, told of a simulated queue instead of Slurm's."""

from __future__ import annotations

from dataclasses import replace

from overspill_sidecar.simulation.pool import Change
from overspill_sidecar.simulation.workload import ReplayedJob
from overspill_sidecar.wait import LIKELIER_THAN_NOT, OnlineModel, WaitingJob
from overspill_sidecar.wait.replay import waiting_job


class Learned:
    """Begins with no knowledge and learns from jobs at home. It has no trees: those want a process of their own."""

    def __init__(self, cpus: int) -> None:
        """Start with the CPUs of the whole cluster."""
        self._model = OnlineModel(cpus)
        self._asked: WaitingJob | None = None

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:
        return self._model.predict(self._waiting(job), job.at_s).p_exceeds(threshold_s) > LIKELIER_THAN_NOT

    def submitted(self, job: ReplayedJob) -> None:
        self._model.submitted(self._waiting(job))

    def changed(self, job: ReplayedJob, change: Change) -> None:
        if change.has_started:
            self._model.started(job.key, change.at_s)
        else:
            self._model.ended(job.key, change.at_s)

    def _waiting(self, job: ReplayedJob) -> WaitingJob:
        """Return the job as the model wants it: the same object twice, so that it need not think twice."""
        if self._asked is None or self._asked.key != job.key:
            self._asked = replace(waiting_job(job.past, job.key), submit_s=job.at_s)
        return self._asked
