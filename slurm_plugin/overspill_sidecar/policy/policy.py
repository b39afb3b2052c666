"""The words in force, and what they say about one job. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from overspill_sidecar.policy.words import PREFIX, Choice, Mode, Value

_DEFAULT_WAIT_S = 30 * 60
_DEFAULT_EXPLORE = 0.03


class WordKey(NamedTuple):
    """What a word sets: `wait`, or `wait` for one partition. A tuple: each decision looks up some 25 of them."""

    key: str
    #: What stands after the `@`: a partition or an account, as the word's scope has it.
    at: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.key}" + (f"@{self.at}" if self.at else "")


@dataclass(frozen=True, slots=True)
class Policy:
    """The words in force.

    Without any word the mode is off. `overspill_from` has no default: a partition that the admin never named is never
    diverted from. A word for one partition or account takes the place of the word for all.
    """

    words: Mapping[WordKey, Value] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def mode(self) -> Mode:
        value = self.words.get(WordKey("mode"), Mode.ON if self.words else Mode.OFF)
        return value if isinstance(value, Mode) else Mode.OFF

    @property
    def from_partitions(self) -> tuple[str, ...]:
        return self._names("from")

    @property
    def user_names(self) -> frozenset[str]:
        """All users whom any word names."""
        return frozenset(
            name
            for key, value in self.words.items()
            if key.key in {"allow_users", "deny_users"} and isinstance(value, tuple)
            for name in value
        )

    def to_partitions(self, partition: str = "") -> tuple[str, ...]:
        """Return overspill partitions in order of preference; empty: those of all configured sites."""
        return self._names("to", partition)

    def wait_s(self, partition: str) -> int:
        """Return the longest wait, in seconds, that a job of `partition` is to bear; 30 minutes if nothing says so."""
        wait_s = self._number("wait", partition)
        return _DEFAULT_WAIT_S if wait_s is None else wait_s

    def max_jobs(self, overspill_partition: str = "") -> int | None:
        """Return how many jobs may be diverted at once, in all or to one partition; None is unlimited."""
        value = self.words.get(WordKey("max_jobs", overspill_partition))
        return value if isinstance(value, int) else None

    def max_account_jobs(self, account: str) -> int | None:
        """Return how many jobs of an account may be diverted at once; None is unlimited."""
        return self._number("max_jobs_per_account", account)

    def max_cpu_hours(self, account: str) -> int | None:
        """Return how many CPU-hours a day jobs of an account may take at the sites; None is unlimited."""
        return self._number("max_cpu_hours", account)

    @property
    def has_budgets(self) -> bool:
        """Whether a word limits any account."""
        return any(key.key in {"max_jobs_per_account", "max_cpu_hours"} for key in self.words)

    def max_nodes(self, partition: str) -> int:
        return self._number("max_nodes", partition) or 1

    def max_time_s(self, partition: str) -> int | None:
        return self._number("max_time", partition)

    def max_gpus(self, partition: str) -> int | None:
        return self._number("gpus", partition)

    def choice(self, partition: str) -> Choice:
        """Return how jobs of `partition` choose between sites."""
        value = self._value("choose", partition)
        return value if isinstance(value, Choice) else Choice.BEST

    def explore(self, partition: str) -> float:
        """Return the share of would-be diversions from `partition` that stay local."""
        value = self._value("explore", partition)
        return value if isinstance(value, float) else _DEFAULT_EXPLORE

    def is_notifying(self, partition: str) -> bool:
        return self._value("notify", partition) is True

    def allows_user(self, user_id: int, partition: str, user_ids: Mapping[str, int]) -> bool:
        """Tell whether jobs of `partition` by this user may be diverted.

        Args:
            user_id: who asks.
            partition: the job's own.
            user_ids: the users that words name, as far as this host knows them. Who is denied and not among them may
                be anybody.
        """
        allowed, denied = self._names("allow_users", partition), self._names("deny_users", partition)
        is_named = any(user_ids.get(name) == user_id for name in allowed)
        return (not allowed or is_named) and not any(user_ids.get(name, user_id) == user_id for name in denied)

    def allows_account(self, account: str, partition: str) -> bool:
        """Tell whether jobs of `partition` by this account may be diverted.

        An empty name is an account that nobody knows: it passes only where no word could keep it back.
        """
        allowed, denied = self._names("allow_accounts", partition), self._names("deny_accounts", partition)
        if not account:
            return not (allowed or denied)
        return account not in denied and (not allowed or account in allowed)

    def maps_feature(self, feature: str, partition: str) -> bool:
        """Tell whether a job of `partition` that asks for `feature` may be diverted where all nodes have it."""
        allowed, denied = self._names("allow_features", partition), self._names("deny_features", partition)
        return feature not in denied and (feature in allowed if allowed else bool(denied))

    def _value(self, key: str, at: str) -> Value | None:
        value = self.words.get(WordKey(key, at)) if at else None
        return self.words.get(WordKey(key)) if value is None else value

    def _names(self, key: str, partition: str = "") -> tuple[str, ...]:
        value = self._value(key, partition)
        return value if isinstance(value, tuple) else ()

    def _number(self, key: str, at: str) -> int | None:
        value = self._value(key, at)
        return value if isinstance(value, int) else None
