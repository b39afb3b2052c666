"""What one user, or one stranger, can make a daemon say: so much a minute, so that nobody fills the admin's disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Hashable

from structlog import DropEvent
from structlog.typing import EventDict, WrappedLogger

_WINDOW_S = 60.0
#: Lines of one action about one job, run, user or site.
_MOST_OF_ONE = 30
#: Lines of one action about nobody in particular.
_MOST_OF_ALL = 300
#: Warnings of one action about one cluster, whatever jobs and users it names: they may be made up.
_MOST_OF_ONE_CLUSTER = 1000
_ABOUT = ("run_id", "slurm_job_id", "user_id", "site")


class _Window:
    """Counts by key within the current minute."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()
        self._ends_at = 0.0

    def count(self, key: Hashable) -> int:
        """Return the how manieth of its key in this minute this one is."""
        now = time.monotonic()
        if now >= self._ends_at:
            self._counts.clear()
            self._ends_at = now + _WINDOW_S
        self._counts[key] += 1
        return self._counts[key]


class FloodGate:
    """A structlog processor that drops what an action says too often; the last line of a minute is marked as that."""

    def __init__(self) -> None:
        self._window = _Window()

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Return the event; whoever asks for debug messages gets them all.

        Raises:
            DropEvent: if there were too many of its kind in this minute.
        """
        if method == "debug":
            return event
        cluster = event.get("slurm_cluster")
        if cluster is not None and method in {"warning", "error"}:
            nth = self._window.count((event.get("action"), "slurm_cluster", cluster))
            if nth > _MOST_OF_ONE_CLUSTER:
                raise DropEvent
            if nth == _MOST_OF_ONE_CLUSTER:
                event["is_last_of_minute"] = True
        about = tuple(event.get(name) for name in _ABOUT)
        most = _MOST_OF_ONE if any(about) else _MOST_OF_ALL
        nth = self._window.count((event.get("action"), about))
        if nth > most:
            raise DropEvent
        if nth == most:
            event["is_last_of_minute"] = True
        return event


class FloodFilter(logging.Filter):
    """The same for what libraries say, by logger and message: a stranger's rubbish at a port comes to a line each."""

    def __init__(self) -> None:
        super().__init__()
        self._window = _Window()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line is to be written."""
        return self._window.count((record.name, record.msg)) <= _MOST_OF_ONE
