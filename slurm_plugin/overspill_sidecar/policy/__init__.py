"""Routing policy: the admin's `overspill_*` words in slurm.conf. Pure."""

from overspill_sidecar.policy.policy import Policy, WordKey
from overspill_sidecar.policy.reading import (
    Problem,
    parse_policy,
    unknown_accounts,
    unknown_partitions,
    unknown_users,
    with_last_good,
)
from overspill_sidecar.policy.words import WORDS, Choice, Mode, Scope, Word

__all__ = [
    "WORDS",
    "Choice",
    "Mode",
    "Policy",
    "Problem",
    "Scope",
    "Word",
    "WordKey",
    "parse_policy",
    "unknown_accounts",
    "unknown_partitions",
    "unknown_users",
    "with_last_good",
]
