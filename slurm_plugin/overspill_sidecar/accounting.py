"""Associations and QOS with their limits and what is used of them, as slurmctld enforces them. Pure.

Source: `scontrol show assoc_mgr`, which slurmctld answers from memory, and
https://slurm.schedmd.com/resource_limits.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: What Slurm gives a job that names no QOS and whose association names none.
USUAL_QOS = "normal"


@dataclass(frozen=True, slots=True)
class Counted:
    """A limit and what is used of it."""

    limit: float
    used: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an association or a QOS; only those that are set.

    Attributes:
        groups: what all jobs together may use: by "jobs", "submit", "tres/cpu", "minutes/cpu", "running/cpu".
        job_tres: what one job may ask for, by TRES.
        node_tres: what it may ask for on each node.
        job_minutes: TRES times minutes of one job.
        wall_min: the longest time limit of a job.
    """

    groups: Mapping[str, Counted]
    job_tres: Mapping[str, float]
    node_tres: Mapping[str, float]
    job_minutes: Mapping[str, float]
    wall_min: float | None


@dataclass(frozen=True, slots=True)
class Association:
    account: str
    #: None: the account's own association, which holds for all its users.
    user_id: int | None
    #: Empty: any partition.
    partition: str
    parent_account: str
    is_default: bool
    limits: Limits


@dataclass(frozen=True, slots=True)
class Qos:
    name: str
    limits: Limits
    #: Of the users and accounts that use something of the QOS now.
    users: Mapping[int, Limits]
    accounts: Mapping[str, Limits]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a job asks for, in the terms of limits."""

    #: Tasks that may run at once, and tasks of the array in all.
    slots: int
    tasks: int
    #: Of one task, by TRES: cpu, mem (MiB), node, gres/gpu.
    tres: Mapping[str, float]
    nodes: int
    #: None is unlimited.
    minutes: float | None


@dataclass(frozen=True, slots=True)
class Accounting:
    """What slurmctld knows of accounting at one moment."""

    associations: Mapping[tuple[str, int | None, str], Association]
    default_accounts: Mapping[int, str]
    qos: Mapping[str, Qos]

    @property
    def accounts(self) -> frozenset[str]:
        """All that there are."""
        return frozenset(account for account, _, _ in self.associations)

    def account_of(self, user_id: int, account: str) -> str:
        """Return the account that a job gets: what it asks for, else its user's default; empty if nobody knows."""
        return account or self.default_accounts.get(user_id, "")

    def has_association(self, user_id: int, account: str, partition: str) -> bool:
        """Tell whether the user may submit to `partition` with `account`; also without one that names partitions."""
        return self._association(user_id, account, partition) is not None

    def is_limit_reached(
        self, demand: Demand, user_id: int, account: str, partition: str, qos: tuple[str, ...]
    ) -> bool:
        """Tell whether a limit of the association, of the accounts above it, or of a QOS would keep the job back."""
        return any(
            share > 1
            for limits in self._limits(user_id, account, partition, qos)
            for _, share in _shares(limits, demand)
        )

    def fullest_limit(self, demand: Demand, user_id: int, account: str, partition: str, qos: tuple[str, ...]) -> float:
        """Return the share of its tightest limit that is used once the job runs, too: above 1 it has to wait.

        How many jobs may be submitted is no such limit: over it, a job is refused.
        """
        shares = (
            share
            for limits in self._limits(user_id, account, partition, qos)
            for name, share in _shares(limits, demand)
            if name != "submit"
        )
        return max(shares, default=0.0)

    def _association(self, user_id: int, account: str, partition: str) -> Association | None:
        found = self.associations.get((account, user_id, partition))
        return found or self.associations.get((account, user_id, ""))

    def _limits(self, user_id: int, account: str, partition: str, qos: tuple[str, ...]) -> Iterator[Limits]:
        association, seen = self._association(user_id, account, partition), set[str]()
        while association is not None:
            yield association.limits
            above = association.account if association.user_id is not None else association.parent_account
            if above in seen:
                break
            seen.add(above)
            association = self.associations.get((above, None, ""))
        for name in qos:
            found = self.qos.get(name or USUAL_QOS)
            if found is not None:
                yield found.limits
                yield from (limits for limits in (found.users.get(user_id), found.accounts.get(account)) if limits)


def _shares(limits: Limits, demand: Demand) -> Iterator[tuple[str, float]]:
    """Yield which share of each limit is used once the job runs, too, with the name of what is limited."""
    minutes = float("inf") if demand.minutes is None else demand.minutes
    for name, counted in limits.groups.items():
        yield name, _share(counted.used + _wanted(name, demand, minutes), counted.limit)
    for name, most in limits.job_tres.items():
        yield name, _share(demand.tres.get(name, 0), most)
    for name, most in limits.node_tres.items():
        yield name, _share(demand.tres.get(name, 0), most * demand.nodes)
    for name, most in limits.job_minutes.items():
        yield name, _share(_product(demand.tres.get(name, 0), minutes), most)
    if limits.wall_min is not None:
        yield "wall", _share(minutes, limits.wall_min)


def _share(used: float, limit: float) -> float:
    if limit > 0:
        return used / limit
    return float("inf") if used > 0 else 0.0


def _wanted(name: str, demand: Demand, minutes: float) -> float:
    """Return what the job adds to a group's use; what the group has used up in time counts as it is."""
    kind, _, tres = name.partition("/")
    match kind:
        case "jobs":
            return demand.slots
        case "submit":
            return demand.tasks
        case "tres":
            return demand.tres.get(tres, 0) * demand.slots
        case "running":
            return _product(demand.tres.get(tres, 0) * demand.slots, minutes)
        case _:
            return 0


def _product(amount: float, minutes: float) -> float:
    return amount * minutes if amount else 0.0
