"""Every word that an admin may write: what it means, its default, an example. Pure; docs and `check` list it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from overspill_sidecar.slurm_text import parse_duration_s

PREFIX = "overspill_"
_NAME = re.compile(r"[^\s,+=@|]{1,255}")
#: More nodes or jobs than any cluster has.
_MAX_COUNT = 10**9
_MAX_DURATION_S = 2**32 * 60
_SHARE = re.compile(r"\d{1,9}(\.\d{0,9})?", re.ASCII)


class Mode(StrEnum):
    """How far Overspill goes."""

    OFF = "off"
    #: Decides and records, never diverts.
    SHADOW = "shadow"
    ON = "on"
    #: Sends every eligible job away: for tests, and to drain a cluster.
    ALWAYS = "always"


class Scope(StrEnum):
    """What may stand after a word's `@`."""

    NONE = "none"
    #: The partition that the user submitted to.
    OWN = "own"
    #: The overspill partition that the job would go to.
    OVERSPILL = "overspill"
    #: No partition but the account that the job is charged to.
    ACCOUNT = "account"


class Choice(StrEnum):
    """How to choose between sites that can all start a job now."""

    BEST = "best"
    """By the delay that each has shown lately, then by price, then by order."""
    ORDER = "order"
    """The first of the order."""


Value = Mode | Choice | bool | int | float | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """A word: `overspill_<key>[@<partition or account>]=<value>`.

    Attributes:
        meaning: one sentence for an admin.
        default: what holds without the word, for an admin.
        example: a whole word that is right.
        parse: raises ValueError, whose text says what to write instead.
        names_partitions: whether the value is a list of partitions.
    """

    key: str
    meaning: str
    default: str
    example: str
    parse: Callable[[str], Value]
    scope: Scope = Scope.NONE
    names_partitions: bool = False

    @property
    def name(self) -> str:
        return PREFIX + self.key


def _mode(text: str) -> Mode:
    try:
        return Mode(text.lower())
    except ValueError:
        raise ValueError(f"{text!r} is no mode: write {', '.join(Mode)}") from None


def _choice(text: str) -> Choice:
    try:
        return Choice(text.lower())
    except ValueError:
        raise ValueError(f"{text!r} is no way to choose: write {' or '.join(Choice)}") from None


def _share(text: str) -> float:
    if not _SHARE.fullmatch(text) or float(text) > 1:
        raise ValueError(f"{text!r} is no share: write a number from 0 to 1, as 0.03")
    return float(text)


def _switch(text: str) -> bool:
    if text.lower() not in {"on", "off"}:
        raise ValueError(f"{text!r} is neither: write on or off")
    return text.lower() == "on"


def _duration_s(text: str) -> int:
    if text.startswith("-"):
        raise ValueError(f"{text!r} is negative: write 0 or a longer time")
    seconds = parse_duration_s(text)
    if seconds > _MAX_DURATION_S:
        raise ValueError(f"{text!r} is longer than any time limit of Slurm")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_MAX_COUNT)) or int(text) > _MAX_COUNT:
        raise ValueError(f"{text!r} is no count: write a whole number from 0 to {_MAX_COUNT}")
    return int(text)


def _node_count(text: str) -> int:
    count = _count(text)
    if count == 0:
        raise ValueError("no job has 0 nodes: write 1 or more, or overspill_mode=off")
    return count


def _names_of(what: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split("+")))
        if not all(_NAME.fullmatch(name) for name in names):
            raise ValueError(f"{text!r} is no list of {what}: write names joined by +")
        return names

    return parse


def is_name(text: str) -> bool:
    """Tell whether Slurm could have a partition, user, account or feature of this name."""
    return _NAME.fullmatch(text) is not None


def _list_of(key: str, what: str, meaning: str, default: str, example: str) -> Word:
    return Word(key, meaning, default, example, _names_of(what), Scope.OWN)


_WORDS = (
    Word(
        "mode",
        "How far Overspill goes: off; shadow decides and records but never diverts; on; always diverts every job "
        "that may be diverted, for tests and to drain a cluster.",
        "on if there is any other word, else off",
        "overspill_mode=shadow",
        _mode,
    ),
    Word(
        "wait",
        "A job that would wait longer than this in its own partition is diverted.",
        "00:30:00",
        "overspill_wait@long=04:00:00",
        _duration_s,
        Scope.OWN,
    ),
    Word(
        "from",
        "Partitions whose jobs may be diverted.",
        "none: nothing is diverted",
        "overspill_from=batch+long",
        _names_of("partitions"),
        names_partitions=True,
    ),
    Word(
        "to",
        "Overspill partitions in order of preference.",
        "those of all sites, in the order of sidecar.toml",
        "overspill_to@long=ovs-b",
        _names_of("partitions"),
        Scope.OWN,
        names_partitions=True,
    ),
    Word(
        "max_jobs",
        "Diverted jobs and array tasks, running and waiting, at any one time; after @ in one overspill partition.",
        "no limit",
        "overspill_max_jobs@ovs-a=200",
        _count,
        Scope.OVERSPILL,
    ),
    Word(
        "max_jobs_per_account",
        "The same for each account; after @ for this account, in place of the number for each.",
        "no limit",
        "overspill_max_jobs_per_account@physics=50",
        _count,
        Scope.ACCOUNT,
    ),
    Word(
        "max_cpu_hours",
        "CPU-hours a day of each account's diverted jobs; after @ of this account's, in place of the number for each.",
        "no limit",
        "overspill_max_cpu_hours@physics=2000",
        _count,
        Scope.ACCOUNT,
    ),
    Word(
        "max_nodes",
        "Jobs of more nodes than this, asked for or implied by their geometry, stay local.",
        "1",
        "overspill_max_nodes=2",
        _node_count,
        Scope.OWN,
    ),
    Word(
        "max_time",
        "Jobs with a longer time limit than this stay local.",
        "no limit",
        "overspill_max_time=1-00:00:00",
        _duration_s,
        Scope.OWN,
    ),
    Word(
        "gpus",
        "Jobs that ask for more GPUs than this stay local; with 0, all that ask for any.",
        "no limit",
        "overspill_gpus=4",
        _count,
        Scope.OWN,
    ),
    _list_of("allow_users", "users", "Only jobs of these users are diverted.", "all", "overspill_allow_users=ann+bob"),
    _list_of("deny_users", "users", "Jobs of these users stay local.", "none", "overspill_deny_users=eve"),
    _list_of(
        "allow_accounts",
        "accounts",
        "Only jobs of these accounts are diverted.",
        "all",
        "overspill_allow_accounts@long=physics",
    ),
    _list_of("deny_accounts", "accounts", "Jobs of these accounts stay local.", "none", "overspill_deny_accounts=meg"),
    _list_of(
        "allow_features",
        "features",
        "Jobs that ask for these features (sbatch --constraint) are diverted where all virtual nodes have them.",
        "none; with overspill_deny_features alone, all others",
        "overspill_allow_features=avx2+icelake",
    ),
    _list_of(
        "deny_features",
        "features",
        "Jobs that ask for one of these features stay local.",
        "none",
        "overspill_deny_features=infiniband",
    ),
    Word(
        "choose",
        "How to choose between sites that can start a job now: best takes the one that has been starting jobs soonest, "
        "of those that are about equal the cheapest, then the first of overspill_to; order takes the first.",
        "best",
        "overspill_choose=order",
        _choice,
        Scope.OWN,
    ),
    Word(
        "explore",
        "Share of the jobs to be diverted that stay local all the same, at random, so that predicted waits can be "
        "compared with real ones.",
        "0.03",
        "overspill_explore=0.01",
        _share,
        Scope.OWN,
    ),
    Word(
        "notify",
        "Whether sbatch tells the user in one line, on its standard error, that the job may run at a site.",
        "off",
        "overspill_notify=on",
        _switch,
        Scope.OWN,
    ),
)

#: All words by key, in the order in which they are worth reading.
WORDS: Mapping[str, Word] = MappingProxyType({word.key: word for word in _WORDS})
