"""Predicting how long a job would wait in the queue. Pure."""

from overspill_sidecar.wait.model import QueuedJob, WaitEstimate, WaitModel
from overspill_sidecar.wait.online import OnlineModel
from overspill_sidecar.wait.outlook import Outlook
from overspill_sidecar.wait.plan import PlanModel
from overspill_sidecar.wait.waiting import SlurmFacts, WaitingJob

__all__ = [
    "OnlineModel",
    "Outlook",
    "PlanModel",
    "QueuedJob",
    "SlurmFacts",
    "WaitEstimate",
    "WaitModel",
    "WaitingJob",
]
