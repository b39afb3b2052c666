"""What `overspill check` says: one line for each thing it looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


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


@dataclass(frozen=True, slots=True)
class Side:
    """The checks of one side, registered as an entry point of `overspill.checks`; several may be of the same side.

    Attributes:
        name: "cluster" or "site".
        configuration: the file whose existence makes this host one of the side's; an environment variable may move it.
        look: looks at everything, given that file. Whatever is wrong is a finding, never an exception.
    """

    name: str
    configuration: Callable[[], Path]
    look: Callable[[Path], Iterable[Finding]]


def ok(subject: str, says: str) -> Finding:
    return Finding(Level.OK, subject, says)


def warning(subject: str, says: str, remedy: str = "") -> Finding:
    return Finding(Level.WARNING, subject, says, remedy)


def error(subject: str, says: str, remedy: str = "") -> Finding:
    return Finding(Level.ERROR, subject, says, remedy)
