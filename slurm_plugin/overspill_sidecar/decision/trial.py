"""Sites that are tried again after they have failed their jobs: a few jobs first. Pure but for its own memory.

The relay drains a failing site's nodes, says so in their reason, and undrains them after a pause: the first run that
fails then closes the site again. Until that is known, a site with a thousand slots would fail a thousand jobs.
"""

from __future__ import annotations

from collections.abc import Mapping

from overspill_sidecar.decision.capacity import Room

#: Jobs at a time, as many as the relay's breaker wants to see succeed, for so long. A site that fails does so at once.
MOST_JOBS = 3
_TRIAL_S = 60.0


class Trials:
    """Knows overspill partitions by name. A router that has just started knows of no trial."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._until: dict[str, float] = {}

    def observe(self, rooms: Mapping[str, Room], asked_at: float) -> None:
        """Take note of a snapshot's rooms; times are of the monotonic clock."""
        for name, room in rooms.items():
            if room.is_failing:
                self._failing.add(name)
                self._until.pop(name, None)
            elif name in self._failing and room.nodes:
                self._failing.remove(name)
                self._until[name] = asked_at + _TRIAL_S

    def at(self, now: float) -> frozenset[str]:
        """Return the partitions on trial."""
        return frozenset(name for name, until in self._until.items() if now < until)
