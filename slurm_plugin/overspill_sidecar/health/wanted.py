"""Which of a site's virtual nodes to drain or undrain. Pure.

What a node's reason says is all that survives a restart, and it says whose drain it is: ours begin with `overspill: `.
A node that somebody else has drained, or has given a reason of his own, is his.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from overspill_sidecar.cluster import FAILS, OURS, Node

#: Written by the SPANK plugin, which also requeues the job.
_HAND_OVER = "overspill: cannot hand over: "
_NEXT_TRY = re.compile(r", next try at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)$")


@dataclass(frozen=True, slots=True)
class Closure:
    """Why no job may start at a site. Reasons of one kind replace each other only in their details."""

    kind: str
    details: str

    @property
    def reason(self) -> str:
        return f"{self.kind}{self.details}"


def unreachable(site: str, since_unix_s: float) -> Closure:
    return Closure(f"{OURS}{site} unreachable", f" since {_local(since_unix_s)}")


def failing(site: str, tally: tuple[int, int], retry_unix_s: float) -> Closure:
    failures, ends = tally
    return Closure(f"{OURS}{site} {FAILS}", f" ({failures} of {ends}), next try at {_local(retry_unix_s)}")


def drained_there(site: str, reason: str) -> Closure:
    return Closure(f"{OURS}{site} takes no new runs", f": {reason}")


def next_try(node: Node, site: str) -> float | None:
    """Return when a site that this node was drained for as failing is to be tried again, Unix seconds."""
    found = _NEXT_TRY.search(node.reason) if node.reason.startswith(f"{OURS}{site} {FAILS}") else None
    if not node.is_drained or found is None:
        return None
    try:
        return datetime.fromisoformat(found[1]).astimezone().timestamp()
    except ValueError:
        return None


def could_not_hand_over(node: Node) -> bool:
    """Tell whether the SPANK plugin has drained the node."""
    return node.is_drained and node.reason.startswith(_HAND_OVER)


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do, by node name."""

    drain: tuple[str, ...] = ()
    undrain: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.drain or self.undrain)


def changes(nodes: Iterable[Node], closure: Closure | None, resting: frozenset[str] = frozenset()) -> Changes:
    """Return what brings the nodes to where the site's state wants them.

    Args:
        nodes: the site's, as seen.
        closure: why they are to be drained, None if the site may be used.
        resting: nodes that the SPANK plugin drained not long enough ago.
    """
    drain, undrain = [], []
    for node in nodes:
        is_ours = node.is_drained and node.reason.startswith(OURS)
        if closure is None:
            if is_ours and node.name not in resting:
                undrain.append(node.name)
        elif not node.is_drained or (is_ours and _is_outdated(node, closure)):
            drain.append(node.name)
    return Changes(tuple(drain), tuple(undrain))


def _is_outdated(node: Node, closure: Closure) -> bool:
    return not could_not_hand_over(node) and not node.reason.startswith(closure.kind)


class Reachability:
    """Whether a site counts as reachable, which it does neither lose nor regain at once. Times as in `observe`."""

    def __init__(self, drain_after_s: float, resume_after_s: float) -> None:
        """Know nothing yet."""
        self._drain_after_s = drain_after_s
        self._resume_after_s = resume_after_s
        self._last: bool | None = None
        self._since = self._since_unix_s = 0.0
        #: None until it has been one or the other for long enough.
        self.is_out: bool | None = None
        #: Unix seconds when the outage began that counts.
        self.out_since_unix_s = 0.0

    def observe(self, now: float, unix_time_s: float, *, is_reachable: bool) -> None:
        """Take note of how the site is at `now`, on the monotonic clock."""
        if is_reachable is not self._last:
            self._last, self._since, self._since_unix_s = is_reachable, now, unix_time_s
        if is_reachable and now - self._since >= self._resume_after_s:
            self.is_out = False
        elif not is_reachable and now - self._since >= self._drain_after_s and not self.is_out:
            self.is_out, self.out_since_unix_s = True, self._since_unix_s


def _local(unix_time_s: float) -> str:
    """Return the time as Slurm shows times."""
    return datetime.fromtimestamp(unix_time_s).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
