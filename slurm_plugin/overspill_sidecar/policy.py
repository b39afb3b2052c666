"""Routing policy: the admin's `overspill_*` words in slurm.conf. Pure.

Words stand in SlurmctldParameters or SchedulerParameters, `overspill_<key>[@<partition>]=<value>`, lists joined by `+`.
Slurm takes words that it does not know, shows them in `scontrol show config`, and takes new ones on
`scontrol reconfigure`. A wrong word is reported and ignored, and what it said when it was last right lives on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from overspill_sidecar.slurm_text import parse_duration_s

_PREFIX = "overspill_"
_WORD = re.compile(r"overspill_([^=@]*)(?:@([^=]*))?(?:=(.*))?", re.IGNORECASE | re.DOTALL)
_PARTITION_NAME = re.compile(r"[^\s,+=@|]{1,255}")


class Mode(StrEnum):
    """How far Overspill goes."""

    OFF = "off"
    #: Decides and records, never diverts.
    SHADOW = "shadow"
    ON = "on"
    #: Sends every eligible job away: for tests, and to drain a cluster.
    ALWAYS = "always"


_Value = Mode | int | tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class WordKey:
    """What a word sets: `wait`, or `wait` for one partition."""

    key: str
    partition: str = ""

    def __str__(self) -> str:
        return f"{_PREFIX}{self.key}" + (f"@{self.partition}" if self.partition else "")


@dataclass(frozen=True, slots=True)
class Policy:
    """The words in force.

    Without any word the mode is off. `overspill_from` has no default: a partition that the admin never named is never
    diverted from. Without `overspill_to` all configured sites are open.
    """

    words: Mapping[WordKey, _Value] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def mode(self) -> Mode:
        value = self.words.get(WordKey("mode"), Mode.ON if self.words else Mode.OFF)
        return value if isinstance(value, Mode) else Mode.OFF

    @property
    def from_partitions(self) -> tuple[str, ...]:
        return self._names("from")

    @property
    def to_partitions(self) -> tuple[str, ...]:
        """Overspill partitions in order of preference; empty: those of all configured sites."""
        return self._names("to")

    def wait_s(self, partition: str) -> int:
        """Return the longest wait, in seconds, that a job of `partition` is to bear; 30 minutes if nothing says so."""
        value = self.words.get(WordKey("wait", partition), self.words.get(WordKey("wait"), 30 * 60))
        return value if isinstance(value, int) else 30 * 60

    def _names(self, key: str) -> tuple[str, ...]:
        value = self.words.get(WordKey(key), ())
        return value if isinstance(value, tuple) else ()


@dataclass(frozen=True, slots=True)
class Problem:
    """A word that is ignored, and what to write instead."""

    word: str
    reason: str

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _Key:
    parse: Callable[[str], _Value]
    takes_partition: bool = False


def _parse_mode(text: str) -> Mode:
    try:
        return Mode(text.lower())
    except ValueError:
        raise ValueError(f"{text!r} is no mode: write {', '.join(Mode)}") from None


def _parse_partitions(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split("+")))
    if not all(_PARTITION_NAME.fullmatch(name) for name in names):
        raise ValueError(f"{text!r} is no list of partitions: write names joined by +")
    return names


_KEYS: Mapping[str, _Key] = {
    "mode": _Key(_parse_mode),
    "wait": _Key(parse_duration_s, takes_partition=True),
    "from": _Key(_parse_partitions),
    "to": _Key(_parse_partitions),
}


def parse_policy(parameters: Iterable[str], previous: Policy | None = None) -> tuple[Policy, tuple[Problem, ...]]:
    """Return the policy in the parameter texts of slurm.conf and the words in them that are wrong.

    A wrong word counts as what the same word said in `previous`; a word that is gone is gone.
    """
    words: dict[WordKey, _Value] = {}
    problems: list[Problem] = []
    for word in _overspill_words(parameters):
        key, partition, text = _split(word)
        try:
            value = _parse_value(key, partition, text)
            if words.setdefault(WordKey(key, partition), value) != value:
                problems.append(Problem(word, "said twice, and differently: the first is taken"))
        except ValueError as error:
            problems.append(Problem(word, str(error)))
            if previous and (last_good := previous.words.get(WordKey(key, partition))) is not None:
                words.setdefault(WordKey(key, partition), last_good)
    policy = Policy(MappingProxyType(words))
    return policy, (*problems, *_gaps(policy))


def _overspill_words(parameters: Iterable[str]) -> list[str]:
    words = (word.strip() for text in parameters for word in text.split(","))
    return [word for word in words if word.lower().startswith(_PREFIX)]


def _split(word: str) -> tuple[str, str, str | None]:
    match = _WORD.fullmatch(word)
    if match is None:
        return word.lower(), "", None
    return match[1].lower(), match[2] or "", match[3]


def _parse_value(key: str, partition: str, text: str | None) -> _Value:
    known = _KEYS.get(key)
    if known is None:
        raise ValueError(f"no such word: there are {', '.join(_PREFIX + name for name in _KEYS)}")
    if partition and not known.takes_partition:
        raise ValueError("takes no @partition")
    if partition and not _PARTITION_NAME.fullmatch(partition):
        raise ValueError(f"{partition!r} is no partition")
    if not text:
        raise ValueError("has no value: write =value after it")
    return known.parse(text)


def _gaps(policy: Policy) -> tuple[Problem, ...]:
    if policy.mode is Mode.OFF or policy.from_partitions:
        return ()
    return (Problem(f"{_PREFIX}from", "is missing, so no job is diverted: name partitions, joined by +"),)
