"""What the relay has seen of each site's work: what its runs' ends say about the site, not about the script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from overspill.errors import OverspillError, UnrunnableError
from overspill.states import Outcome
from overspill_sidecar.health.breaker import Breaker

_log = structlog.get_logger(__name__)

_SITES_FAULT = frozenset({Outcome.REJECTED, Outcome.LOST, Outcome.NODE_FAIL})


def does_end_speak_for_site(outcome: Outcome, *, has_started: bool) -> bool | None:
    """Tell whether a run's end shows that the site works (True), fails (False), or neither (None).

    What a script does, and what its user or its time limit does to it, is never the site's fault.
    """
    if outcome in _SITES_FAULT:
        return False
    return True if has_started else None


def does_refusal_speak_for_site(error: OverspillError) -> bool | None:
    """Tell the same of a Submit that was turned down: only "cannot run it" is about the site, and against it."""
    return False if isinstance(error, UnrunnableError) else None


class HealthRecord:
    """One breaker for each site and, for the hand-over to the proxy, one for each virtual node."""

    def __init__(self, first_pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_pause_s = first_pause_s
        self._clock = clock
        self._breakers: dict[tuple[str, str], Breaker] = {}
        #: Set when a breaker has opened: what is to be done about it must not wait.
        self.has_opened = asyncio.Event()

    def site(self, name: str) -> Breaker:
        return self._of("site", name)

    def node(self, name: str) -> Breaker:
        return self._of("node", name)

    def note_end(self, site: str, *, speaks_for_site: bool | None) -> None:
        """Count what an end says about a site, as the functions above have it."""
        breaker = self.site(site)
        if speaks_for_site is not None and breaker.count(self._clock(), is_success=speaks_for_site):
            failures, ends = breaker.tally
            _log.warning("site fails its jobs", action="site_failing", site=site, failures=failures, ends=ends)
            self.has_opened.set()

    def note_hand_over(self, node: str) -> None:
        """Count a job whose proxy has come from this virtual node."""
        self.node(node).count(self._clock(), is_success=True)

    def _of(self, kind: str, name: str) -> Breaker:
        return self._breakers.setdefault((kind, name), Breaker(self._first_pause_s))
