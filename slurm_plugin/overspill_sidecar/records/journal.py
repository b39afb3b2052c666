"""What the relay logs about a job, remembered by job: the story that `overspill logs --events` tells."""

from __future__ import annotations

import functools
import time
from typing import Self

import structlog
from structlog.typing import EventDict, WrappedLogger

from overspill.v1.sidecar_pb2 import JobEvent
from overspill_sidecar.records.ledger import Entry, Ledger

_NOT_DETAILS = frozenset({"event", "action", "slurm_job_id", "level", "timestamp", "exc_info"})


class Journal:
    """A structlog processor: an event that names a job is kept in the ledger, and logged as ever.

    As a context manager it listens to this process's logs.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Take note of the event; return it unchanged."""
        job_id = event.get("slurm_job_id")
        if isinstance(job_id, int):
            at_ms = time.time_ns() // 1_000_000
            made = functools.partial(_serialised, at_ms, job_id, dict(event))
            self._ledger.add(Entry(at_ms, job_id, str(event.get("action", "")), made))
        return event

    def __enter__(self) -> Self:
        # In place: loggers that were used before hold this very list.
        structlog.get_config()["processors"].insert(0, self)
        return self

    def __exit__(self, *_: object) -> None:
        structlog.get_config()["processors"].remove(self)


def _serialised(at_ms: int, slurm_job_id: int, event: EventDict) -> bytes:
    details = {name: str(value) for name, value in event.items() if name not in _NOT_DETAILS and value is not None}
    return JobEvent(
        at_ms=at_ms,
        slurm_job_id=slurm_job_id,
        action=str(event.get("action", "")),
        event=str(event.get("event", "")),
        details=details,
    ).SerializeToString()
