"""Everything that a decision rests on besides the request. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from overspill_sidecar.accounting import Accounting
from overspill_sidecar.cluster import ClusterConfig
from overspill_sidecar.decision.budget import AccountUse
from overspill_sidecar.decision.capacity import Amount, Room, SiteView
from overspill_sidecar.policy import Policy
from overspill_sidecar.wait import QueuedJob, WaitEstimate


@dataclass(frozen=True, slots=True)
class Queue:
    """What a fresh snapshot of Slurm comes down to for a decision."""

    config: ClusterConfig
    default_partition: str
    rooms: Mapping[str, Room]
    #: None where there is none, or where Slurm does not tell.
    accounting: Accounting | None = None
    is_federated: bool = False
    #: What diverted jobs of each account have and have had today; None while nobody knows.
    used: Mapping[str, AccountUse] | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """The world at one moment."""

    policy: Policy
    #: None while Slurm has never answered, or not for too long: then nothing is diverted.
    queue: Queue | None
    sites: Sequence[SiteView]
    #: By site: what decisions promised whose jobs no snapshot shows yet.
    promised: Mapping[str, Amount]
    predict: Callable[[QueuedJob], WaitEstimate | None]
    unix_time_s: float
    #: By site: how many jobs and array tasks these promises are for.
    promised_jobs: Mapping[str, int] = field(default_factory=dict)
    #: By account: what these promises come to.
    promised_use: Mapping[str, AccountUse] = field(default_factory=dict)
    #: Overspill partitions whose sites have failed their jobs and are tried again.
    on_trial: frozenset[str] = frozenset()
    #: Of the users whom the policy names.
    user_ids: Mapping[str, int] = field(default_factory=dict)
