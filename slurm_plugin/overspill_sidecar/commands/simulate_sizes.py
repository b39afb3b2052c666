"""The options of `overspill simulate` that say what a site is like: `[PARTITION=]VALUE`, several times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from overspill_sidecar.commands.parsed import Parsed
from overspill_sidecar.policy import Policy
from overspill_sidecar.simulation.remote import RemoteSite
from overspill_sidecar.simulation.rules import destinations
from overspill_sidecar.slurm_text import parse_duration_s

V = TypeVar("V")
#: A partition, or "" where none is named, and a value; None is unlimited.
Named = tuple[str, int | None]
Priced = tuple[str, float]
#: The overspill partition where the policy names none.
_ANY_SITE = "overspill"
_DEFAULT_OVERHEAD_S = 60
_MOST_CPUS = 10**9


def _cpus(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < len(text) <= len(str(_MOST_CPUS)) or int(text) == 0:
        raise ValueError(f"{text!r} is no number of CPUs: write 1 or more")
    return int(text)


def _cpus_or_unlimited(text: str) -> int | None:
    return None if text.lower() == "unlimited" else _cpus(text)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise ValueError(f"{text!r} is no price: write a number, as 0.02")
    return price


def _named(name: str, parse: Callable[[str], V]) -> Parsed[tuple[str, V]]:
    def parse_named(text: str) -> tuple[str, V]:
        partition, _, value = text.rpartition("=")
        return partition, parse(value)

    return Parsed(name, parse_named)


CPUS: Parsed[Named] = _named("cpus", _cpus)
SITE_CPUS: Parsed[Named] = _named("cpus", _cpus_or_unlimited)
SITE_TIME: Parsed[Named] = _named("time", parse_duration_s)
SITE_PRICE: Parsed[Priced] = _named("price", _price)
LOOK_TIME = Parsed("time", parse_duration_s)


def sites_of(
    policy: Policy,
    cpus: Sequence[Named],
    slot_cpus: Sequence[Named],
    overheads_s: Sequence[Named],
    prices: Sequence[Priced],
) -> tuple[RemoteSite, ...]:
    """Return the sites that jobs may go to, in the policy's order.

    Raises:
        click.UsageError: if it is not clear how large each of them is, or if an option is about no site.
    """
    cpus_of = dict(cpus)
    named = tuple(name for name in cpus_of if name)
    partitions = destinations(policy) or named or (_ANY_SITE,)
    options = {"cpus": cpus, "slot-cpus": slot_cpus, "overhead": overheads_s, "price": prices}
    for option, given in options.items():
        if strangers := [name for name, *_ in given if name and name not in partitions]:
            raise click.UsageError(
                f"--remote-{option} {strangers[0]}=: jobs may go to {', '.join(partitions)} only, by overspill_to"
            )
    unsaid = [name for name in partitions if name not in cpus_of]
    if cpus_of.get("") is not None and len(unsaid) > 1:
        each = " ".join(f"--remote-cpus {name}=CPUS" for name in partitions)
        raise click.UsageError(f"the policy names several sites: say how large each is: {each}")
    if cpus_of and "" not in cpus_of and unsaid:
        raise click.UsageError(f"say how large {unsaid[0]} is, too: --remote-cpus {unsaid[0]}=CPUS")
    slots, times_s = dict(slot_cpus), {"": _DEFAULT_OVERHEAD_S, **dict(overheads_s)}
    price_of = {"": 0.0, **dict(prices)}
    return tuple(
        RemoteSite(
            name,
            cpus=cpus_of.get(name, cpus_of.get("")),
            overhead_s=float(times_s.get(name, times_s.get("")) or 0),
            slot_cpus=slots.get(name, slots.get("")),
            price=price_of.get(name, price_of[""]),
        )
        for name in partitions
    )
