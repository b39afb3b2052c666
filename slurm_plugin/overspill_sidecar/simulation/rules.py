"""What a policy says of past jobs, as far as a history tells what it asks for. Pure.

Reasons are the stable words of real decisions (`overspill_sidecar.records.reasons`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from overspill_sidecar.history import PastJob
from overspill_sidecar.policy import Mode, Policy
from overspill_sidecar.simulation.workload import Workload

#: Words that a history gives nothing to replay with, and why.
_NOT_REPLAYED: Mapping[str, str] = {
    "allow_features": "no history tells what features a job asked for",
    "deny_features": "no history tells what features a job asked for",
    "gpus": "the GPUs of a job are not read from a history",
    "notify": "it changes nothing but what sbatch says",
}


@dataclass(frozen=True, slots=True)
class IgnoredWord:
    word: str
    reason: str


def ignored_words(policy: Policy, workload: Workload) -> tuple[IgnoredWord, ...]:
    """Return the policy's words that a replay of these jobs does not honour."""
    return tuple(_ignored(policy, workload))


def _ignored(policy: Policy, workload: Workload) -> Iterator[IgnoredWord]:
    for key in sorted(policy.words):
        if key.key in _NOT_REPLAYED:
            yield IgnoredWord(str(key), _NOT_REPLAYED[key.key])
        elif key.key == "max_nodes" and not workload.tells_nodes:
            yield IgnoredWord(str(key), "the history does not tell how many nodes a job had")


def partitions_without_jobs(policy: Policy, workload: Workload) -> tuple[str, ...]:
    """Return the partitions of `overspill_from` that no job of the history is of."""
    return tuple(name for name in policy.from_partitions if name not in workload.partitions)


def destinations(policy: Policy) -> tuple[str, ...]:
    """Return every overspill partition that jobs of `overspill_from` may go to; empty: that is left open."""
    orders = (policy.to_partitions(name) for name in ("", *policy.from_partitions))
    return tuple(dict.fromkeys(name for order in orders for name in order))


class Rules:
    """What does not change with time: whose jobs may go at all."""

    def __init__(self, policy: Policy, workload: Workload) -> None:
        self.policy = policy
        self._user_ids = _numbered(policy.user_names, (job.past.user for job in workload.jobs))

    def why_kept(self, job: PastJob) -> str | None:
        """Return why the policy keeps such jobs here, in the order in which the router looks; None if it does not."""
        if self.policy.mode is Mode.OFF:
            return "mode_off"
        return next((reason for reason, holds in self._keeping(job) if holds), None)

    def _keeping(self, job: PastJob) -> Iterator[tuple[str, bool]]:
        policy, partition = self.policy, job.partition
        yield "partition_not_in_from", partition not in policy.from_partitions
        yield "several_nodes", (job.nodes or 1) > policy.max_nodes(partition)
        yield "policy_user", not policy.allows_user(self._user_ids[job.user], partition, self._user_ids)
        yield "policy_account", not policy.allows_account(job.account, partition)
        max_time_s, limit_s = policy.max_time_s(partition), job.time_limit_s
        yield "policy_time", max_time_s is not None and (limit_s is None or limit_s > max_time_s)


def _numbered(named: Iterable[str], users: Iterable[str]) -> dict[str, int]:
    """Return a number for each user: a policy compares users by uid, and a history may be another cluster's."""
    return {name: number for number, name in enumerate(dict.fromkeys((*sorted(named), *users)))}
