"""For how long runs have waited for their start lately: what a cluster compares sites by. Pure: time is given."""

from __future__ import annotations

import statistics
from collections import deque

#: Few enough that a change shows soon, enough that one odd run does not count.
_MOST = 30
#: A site that has started nothing for so long may be another by now.
_LATELY_MS = 3_600_000


class StartDelays:
    """The last delays. All times are Unix milliseconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque(maxlen=_MOST)

    def note(self, accepted_at_ms: int, started_at_ms: int) -> None:
        self._seen.append((started_at_ms, max(0, started_at_ms - accepted_at_ms)))

    def median_ms(self, now_ms: int) -> int | None:
        """Return the median, None if no run has started lately."""
        recent = [delay for started_at_ms, delay in self._seen if now_ms - started_at_ms <= _LATELY_MS]
        return round(statistics.median(recent)) if recent else None
