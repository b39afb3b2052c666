"""Stops the use of what fails, and tries it again after a pause that grows. Pure: time is given."""

from __future__ import annotations

from collections import deque
from enum import StrEnum

#: So many failures one after the other, whatever was before, open it.
FAILURES_IN_A_ROW = 3
#: So does half of what ended in the window, once so much has.
_WINDOW_S = 600.0
_ENOUGH = 6
_WORST_SHARE = 0.5
#: So many successes close it after a try; one alone may be luck.
SUCCESSES_TO_CLOSE = 3
_LONGEST_PAUSE_S = 3600.0
#: A machine that dies takes many jobs at once; more than these need not be remembered.
_MOST_REMEMBERED = 200


class Phase(StrEnum):
    CLOSED = "CLOSED"
    """It works: used without limits."""
    OPEN = "OPEN"
    """It failed: not used before `retry_at`."""
    HALF_OPEN = "HALF_OPEN"
    """Tried again: the next failure opens it for twice as long."""


class Breaker:
    """Counts failures and successes. All times are seconds of one monotonic clock, given to each call."""

    def __init__(self, first_pause_s: float) -> None:
        """Begin closed."""
        self._first_pause_s = first_pause_s
        self._pause_s = first_pause_s
        self._ends: deque[tuple[float, bool]] = deque(maxlen=_MOST_REMEMBERED)
        self._phase = Phase.CLOSED
        self.retry_at = 0.0
        #: Failures, and all that was counted, when it opened.
        self.tally = (0, 0)

    def phase(self, now: float) -> Phase:
        """Return the phase; a pause that is over ends here."""
        if self._phase is Phase.OPEN and now >= self.retry_at:
            self._phase = Phase.HALF_OPEN
            self._ends.clear()
        return self._phase

    def count(self, now: float, *, is_success: bool) -> bool:
        """Take note of an end; tell whether it opened the breaker. While that is open, late ends tell nothing new."""
        phase = self.phase(now)
        if phase is Phase.OPEN:
            return False
        self._ends.append((now, is_success))
        while now - self._ends[0][0] > _WINDOW_S:
            self._ends.popleft()
        if not is_success and (phase is Phase.HALF_OPEN or self._is_bad()):
            self.trip(now)
            return True
        if phase is Phase.HALF_OPEN and len(self._ends) >= SUCCESSES_TO_CLOSE:
            self._phase = Phase.CLOSED
            self._pause_s = self._first_pause_s
        return False

    def trip(self, now: float) -> None:
        """Open, after a try for twice as long as before."""
        failures = sum(not is_success for _, is_success in self._ends)
        self.tally = (failures, len(self._ends))
        if self._phase is Phase.HALF_OPEN:
            self._pause_s = min(2 * self._pause_s, max(_LONGEST_PAUSE_S, self._first_pause_s))
        self._phase = Phase.OPEN
        self.retry_at = now + self._pause_s

    def open_until(self, retry_at: float) -> None:
        """Be open as another process has left it."""
        self._phase, self.retry_at = Phase.OPEN, retry_at

    def _is_bad(self) -> bool:
        ends = [is_success for _, is_success in self._ends]
        if len(ends) >= FAILURES_IN_A_ROW and not any(ends[-FAILURES_IN_A_ROW:]):
            return True
        return len(ends) >= _ENOUGH and ends.count(False) >= _WORST_SHARE * len(ends)
