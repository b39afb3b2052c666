"""From the texts in slurm.conf to a policy, and what is wrong with them. Pure.

Words stand in SlurmctldParameters or SchedulerParameters, `overspill_<key>[@<partition or account>]=<value>`,
lists joined by `+`. Slurm takes words that it does not know, shows them in `scontrol show config`, and takes new ones
on `scontrol reconfigure`. A wrong word is reported and ignored, and what it said when it was last right lives on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

from overspill_sidecar.policy.policy import Policy, WordKey
from overspill_sidecar.policy.words import PREFIX, WORDS, Mode, Scope, Value, is_name

_WORD = re.compile(r"overspill_([^=@]*)(?:@([^=]*))?(?:=(.*))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """A word that is ignored, or does nothing, and what to write instead."""

    word: str
    reason: str

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


def parse_policy(parameters: Iterable[str], previous: Policy | None = None) -> tuple[Policy, tuple[Problem, ...]]:
    """Return the policy in the parameter texts of slurm.conf and the words in them that are wrong.

    A wrong word counts as what the same word said in `previous`; a word that is gone is gone.
    """
    words: dict[WordKey, Value] = {}
    problems: list[Problem] = []
    for word in _overspill_words(parameters):
        key, at, text = _split(word)
        try:
            value = _parse_value(key, at, text)
            if words.setdefault(WordKey(key, at), value) != value:
                problems.append(Problem(word, "said twice, and differently: the first is taken"))
        except ValueError as error:
            problems.append(Problem(word, str(error)))
            if previous and (last_good := previous.words.get(WordKey(key, at))) is not None:
                words.setdefault(WordKey(key, at), last_good)
    policy = Policy(MappingProxyType(words))
    return policy, (*problems, *_gaps(policy))


def unknown_partitions(policy: Policy, partitions: Collection[str]) -> tuple[Problem, ...]:
    """Return a problem for each partition that a word names and the cluster does not have."""
    problems = (
        Problem(word, f"slurmctld knows no partition {name}: correct the word, or add the partition to slurm.conf")
        for word, name in _named_partitions(policy)
        if name not in partitions
    )
    return tuple(dict.fromkeys(problems))


def with_last_good(policy: Policy, partitions: Collection[str], previous: Policy) -> Policy:
    """Return the policy in which a list that names an unknown partition says what it last said, if that was right."""

    def is_known(value: Value | None) -> bool:
        return isinstance(value, tuple) and all(name in partitions for name in value)

    words = {
        key: last_good
        if WORDS[key.key].names_partitions
        and not is_known(value)
        and is_known(last_good := previous.words.get(key))
        and last_good is not None
        else value
        for key, value in policy.words.items()
    }
    return Policy(MappingProxyType(words))


def unknown_accounts(policy: Policy, accounts: Collection[str]) -> tuple[Problem, ...]:
    """Return a problem for each account that a word names and that is not among `accounts`, all that Slurm has."""
    names = {"allow_accounts", "deny_accounts"}
    named: list[tuple[WordKey, tuple[str, ...]]] = [
        (key, (key.at,)) for key in policy.words if key.at and WORDS[key.key].scope is Scope.ACCOUNT
    ]
    named += [(key, value) for key, value in policy.words.items() if key.key in names and isinstance(value, tuple)]
    return tuple(
        Problem(str(key), f"Slurm's accounting knows no account {name}: correct the word, or see sacctmgr show account")
        for key, value in named
        for name in value
        if name not in accounts
    )


def unknown_users(policy: Policy, users: Collection[str]) -> tuple[Problem, ...]:
    """Return a problem for each user whom a word names and who is not among `users`, those whom this host knows."""
    meaning = {"allow_users": "", "deny_users": ", who may be anybody, so the word keeps all jobs here"}
    return tuple(
        Problem(
            str(key),
            f"this host knows no user {name}{meaning[key.key]}: correct the word, or see `getent passwd {name}`",
        )
        for key, value in policy.words.items()
        if key.key in meaning and isinstance(value, tuple)
        for name in value
        if name not in users
    )


def _named_partitions(policy: Policy) -> Iterator[tuple[str, str]]:
    for key, value in policy.words.items():
        if key.at and WORDS[key.key].scope is not Scope.ACCOUNT:
            yield str(key), key.at
        if WORDS[key.key].names_partitions and isinstance(value, tuple):
            yield from ((str(key), name) for name in value)


def _overspill_words(parameters: Iterable[str]) -> list[str]:
    words = (word.strip() for text in parameters for word in text.split(","))
    return [word for word in words if word.lower().startswith(PREFIX)]


def _split(word: str) -> tuple[str, str, str | None]:
    match = _WORD.fullmatch(word)
    if match is None:
        return word.lower(), "", None
    return match[1].lower(), match[2] or "", match[3]


def _parse_value(key: str, at: str, text: str | None) -> Value:
    word = WORDS.get(key)
    if word is None:
        raise ValueError(f"no such word: there are {', '.join(known.name for known in WORDS.values())}")
    if at and word.scope is Scope.NONE:
        raise ValueError("takes no @partition")
    if at and not is_name(at):
        raise ValueError(f"{at!r} is no {'account' if word.scope is Scope.ACCOUNT else 'partition'}")
    if not text:
        raise ValueError("has no value: write =value after it")
    return word.parse(text)


def _gaps(policy: Policy) -> tuple[Problem, ...]:
    if policy.mode is Mode.OFF or policy.from_partitions:
        return ()
    return (Problem(f"{PREFIX}from", "is missing, so no job is diverted: name partitions, joined by +"),)
