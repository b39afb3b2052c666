"""Predicting how long a job would wait in the queue. Pure."""

from overspill_sidecar.wait.learned import LearnedModel, LearnedWait
from overspill_sidecar.wait.model import (
    LIKELIER_THAN_NOT,
    QueuedJob,
    UnknownWaits,
    WaitEstimate,
    WaitGoingOn,
    WaitModel,
    waited_s,
)
from overspill_sidecar.wait.online import OnlineModel
from overspill_sidecar.wait.outlook import Outlook
from overspill_sidecar.wait.plan import PlanModel
from overspill_sidecar.wait.waiting import SlurmFacts, WaitingJob

__all__ = [
    "LIKELIER_THAN_NOT",
    "LearnedModel",
    "LearnedWait",
    "OnlineModel",
    "Outlook",
    "PlanModel",
    "QueuedJob",
    "SlurmFacts",
    "UnknownWaits",
    "WaitEstimate",
    "WaitGoingOn",
    "WaitModel",
    "WaitingJob",
    "waited_s",
]
