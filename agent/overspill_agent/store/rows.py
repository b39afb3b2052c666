"""Runs to rows and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import RowMapping

from overspill.request_id import RequestId
from overspill.states import Outcome, RunState
from overspill_agent.runs import Ending, Resources, Run

_ENDING_COLUMNS = tuple(field.name for field in fields(Ending))
_PLAIN_COLUMNS = (
    "run_id",
    "account",
    "has_stdin",
    "is_stdin_complete",
    "state_at_ms",
    "accepted_at_ms",
    "started_at_ms",
    "ended_at_ms",
    "attempt",
    "report_seq",
    "signal_seq",
    "image",
    "gpu_type",
    "stop_reason",
    "remote_id",
    "machine",
    "is_cleaned",
    "is_released",
)


def row_of(run: Run) -> dict[str, Any]:
    """Return every column of the run's row in `runs`."""
    ending = asdict(run.ending) if run.ending else dict.fromkeys(_ENDING_COLUMNS)
    return {
        **{name: getattr(run, name) for name in _PLAIN_COLUMNS},
        "request_id": str(run.request_id),
        **asdict(run.request_id),
        **asdict(run.resources),
        "state": run.state.value,
        "stop_outcome": run.stop_outcome.value,
        **ending,
        "outcome": run.ending.outcome.value if run.ending else None,
    }


def run_of(row: RowMapping) -> Run:
    """Return the run in a row of `runs`."""
    ending = None
    if row["outcome"] is not None:
        ending = Ending(**{name: row[name] for name in _ENDING_COLUMNS if name != "outcome"}, outcome=_outcome(row))
    return Run(
        **{name: row[name] for name in _PLAIN_COLUMNS},
        request_id=RequestId(**{field.name: row[field.name] for field in fields(RequestId)}),
        resources=Resources(**{field.name: row[field.name] for field in fields(Resources)}),
        state=RunState(row["state"]),
        stop_outcome=Outcome(row["stop_outcome"]),
        ending=ending,
    )


def _outcome(row: RowMapping) -> Outcome:
    return Outcome(row["outcome"])
