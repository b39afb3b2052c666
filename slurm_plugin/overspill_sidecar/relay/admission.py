"""Who may have how much of the relay before it is known who calls: its socket is open to every local user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from overspill.errors import ExhaustedError
from overspill_sidecar import metrics

_log = structlog.get_logger(__name__)

#: Connections of one uid that have not been verified yet. A burst of more job starts calls again within 2 s.
_MAX_UNVERIFIED = 64
#: Connections of one job that are sending script and environment: one that is being replaced, and its successor.
_MAX_OPENING = 2
_LOG_INTERVAL_S = 60.0


class Admission:
    """Counts what is not admitted yet. All of it is closed within the deadline of an opening."""

    def __init__(self) -> None:
        self._unverified: Counter[int] = Counter()
        self._opening: Counter[int] = Counter()

    @contextmanager
    def unverified(self, user_id: int) -> Iterator[None]:
        """Count a connection of this uid.

        Raises:
            ExhaustedError: if it has too many already.
        """
        with _counted(self._unverified, user_id, _MAX_UNVERIFIED, "connections of the user are not verified yet"):
            yield

    @contextmanager
    def opening(self, slurm_job_id: int) -> Iterator[None]:
        """Count a connection of this job, whose user has been verified.

        Raises:
            ExhaustedError: if it has too many already.
        """
        with _counted(self._opening, slurm_job_id, _MAX_OPENING, "connections of the job send their opening"):
            yield


@contextmanager
def _counted(counter: Counter[int], key: int, most: int, what: str) -> Iterator[None]:
    if counter[key] >= most:
        raise ExhaustedError(f"{most} {what}")
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


@dataclass(slots=True)
class _Refused:
    logged_at: float
    unlogged: int = 0


class RefusalLog:
    """Says that connections are refused: of each uid at once, and then once a minute with their number."""

    def __init__(self) -> None:
        self._refused: dict[int, _Refused] = {}

    def note(self, now: float, user_id: int, action: str, reason: str) -> None:
        """Log a refusal, or count it towards the next line."""
        metrics.CONNECTIONS_REFUSED.labels(action).inc()
        refused = self._refused.get(user_id)
        if refused is not None and now - refused.logged_at < _LOG_INTERVAL_S:
            refused.unlogged += 1
            return
        count = 1 + (refused.unlogged if refused else 0)
        _log.warning("connection refused", action=action, user_id=user_id, reason=reason, count=count)
        self._refused[user_id] = _Refused(now)
