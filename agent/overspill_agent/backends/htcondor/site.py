"""What the operator has decided about the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a word of --constraint means: ClassAd expressions over a machine's attributes; no rank: empty."""

    requirements: str = "true"
    rank: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; see `overspill_agent.config.Htcondor`.

    Attributes:
        removal_s: after it a machine's confirmation of a removal is not waited for any more.
        fence_s: so long after the agent wanted a job to end, no runner of it lives anywhere: either it heard so from
            the agent, or its lease is over.
    """

    start_within_s: int = 3600
    held_within_s: int = 86_400
    job_lease_s: int = 300
    overrun_s: int = 86_400
    removal_s: int = 60
    fence_s: int = 100


@dataclass(frozen=True, slots=True)
class HtcondorSite:
    """The section `[htcondor]`, without its syntax.

    Attributes:
        staging: directory of the agent's own, in which each job's files are for as long as they are sent.
        image_words: words of --constraint that choose an image: they ask nothing of a machine.
    """

    collector: str
    schedd: str
    token_directory: Path
    name: str
    staging: Path
    universe: str
    python: Path
    runner: Path
    requirements: str = "true"
    rank: str = ""
    images_attribute: str = ""
    features: Mapping[str, Meaning] = field(default_factory=dict)
    image_words: frozenset[str] = frozenset()
    gpu_types: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    disk_mib: int = 1024
    limits: Limits = Limits()
    poll_s: float = 5.0
    busy_poll_s: float = 0.5
    machines_poll_s: float = 15.0
