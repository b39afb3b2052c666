"""Predicting how long a job would wait in the queue. Pure."""

from overspill_sidecar.wait.model import QueuedJob, WaitEstimate, WaitModel
from overspill_sidecar.wait.plan import PlanModel

__all__ = ["PlanModel", "QueuedJob", "WaitEstimate", "WaitModel"]
