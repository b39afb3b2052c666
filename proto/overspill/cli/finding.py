"""What `overspill check` says: one line for each thing it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    #: Works, but not as an admin would want it.
    WARNING = "warning"
    #: Jobs are not diverted, or not well, until somebody acts.
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what was looked at: "slurm.conf: overspill_from", "site site-a: certificate".
        says: what was found, in one sentence.
        remedy: what to do next, empty where nothing is to be done.
    """

    level: Level
    subject: str
    says: str
    remedy: str = ""
