"""What the diverted jobs of each account have had today, in a SQLite file that outlives the router.

The router's own looks at the queue fill it, so every controller's router has one of its own, and neither slurmdbd nor
sacct is asked. Where it cannot be kept, nobody knows what an account has had, and jobs of limited accounts stay local.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from overspill_sidecar.cluster import Job, Snapshot
from overspill_sidecar.decision.budget import AccountUse, claims, day_start_s, together
from overspill_sidecar.records.database import open_database

_log = structlog.get_logger(__name__)

#: After its time limit a job may go on for OverTimeLimit and KillWait; one that nobody saw end is given so much more.
_OVERTIME_S = 300
_SCHEMA = """
CREATE TABLE IF NOT EXISTS uses (
    slurm_job_id INTEGER NOT NULL, started_s INTEGER NOT NULL, account TEXT NOT NULL, cpus INTEGER NOT NULL,
    limit_s INTEGER, ended_s INTEGER, PRIMARY KEY (slurm_job_id, started_s));
CREATE INDEX IF NOT EXISTS uses_ended ON uses (ended_s);
"""


class _Attempt(NamedTuple):
    slurm_job_id: int
    started_s: int


@dataclass(frozen=True, slots=True)
class _Use:
    account: str
    cpus: int
    #: Unix seconds when its time limit ends it; None if nothing does.
    limit_s: int | None

    def ended_s(self, unseen_since_s: float) -> int:
        """Return when it ended that is not to be seen any more; in doubt later, but not long after its limit."""
        now_s = int(unseen_since_s)
        return now_s if self.limit_s is None else min(now_s, self.limit_s + _OVERTIME_S)


class Tally:
    """A context manager. One thread at a time may `observe`."""

    def __init__(self, path: Path | None) -> None:
        """Open nothing yet.

        Args:
            path: the file, made if there is none; its directory must exist. None: keep everything in memory.
        """
        self.path = path
        #: Why nobody knows what accounts have had; empty if it is known.
        self.problem = ""
        self._connection: sqlite3.Connection | None = None
        self._running: dict[_Attempt, _Use] = {}
        self._day_s = 0.0
        self._spent: Mapping[str, AccountUse] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def observe(self, snapshot: Snapshot) -> Mapping[str, AccountUse] | None:
        """Take note of a snapshot; return what each account has now and has had today, None if nobody knows."""
        try:
            connection = self._connection or self._open()
            self._take(connection, snapshot)
        except sqlite3.Error as error:
            self._note_problem(f"cannot use {self.path}: {error}")
            return None
        self._note_problem("")
        return together(claims(snapshot.jobs), self._spent)

    def _open(self) -> sqlite3.Connection:
        self._connection = connection = open_database(str(self.path or ":memory:"), _SCHEMA)
        rows = connection.execute(
            "SELECT slurm_job_id, started_s, account, cpus, limit_s FROM uses WHERE ended_s IS NULL"
        )
        self._running = {_Attempt(*row[:2]): _Use(*row[2:]) for row in rows}
        self._day_s = 0.0
        return connection

    def _take(self, connection: sqlite3.Connection, snapshot: Snapshot) -> None:
        running = dict(map(_seen, (job for job in snapshot.jobs if _has_started(job))))
        changed = {attempt: use for attempt, use in running.items() if self._running.get(attempt) != use}
        gone = {attempt: use for attempt, use in self._running.items() if attempt not in running}
        day_s = day_start_s(snapshot.unix_time_s)
        if changed or gone or day_s != self._day_s:
            self._write(connection, changed, gone, snapshot.unix_time_s, day_s)
            self._spent = _spent_since(connection, day_s)
        self._running, self._day_s = running, day_s

    def _write(
        self,
        connection: sqlite3.Connection,
        changed: Mapping[_Attempt, _Use],
        gone: Mapping[_Attempt, _Use],
        now_s: float,
        day_s: float,
    ) -> None:
        with connection:
            connection.executemany(
                "INSERT OR REPLACE INTO uses (slurm_job_id, started_s, account, cpus, limit_s) VALUES (?, ?, ?, ?, ?)",
                [(*attempt, use.account, use.cpus, use.limit_s) for attempt, use in changed.items()],
            )
            connection.executemany(
                "UPDATE uses SET ended_s = ? WHERE slurm_job_id = ? AND started_s = ?",
                [(use.ended_s(now_s), *attempt) for attempt, use in gone.items()],
            )
            if day_s != self._day_s:
                connection.execute("DELETE FROM uses WHERE ended_s < ?", (day_s,))

    def _note_problem(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.warning("accounts' use is not known", action="tally_unusable", reason=problem)
        self.problem = problem


def _has_started(job: Job) -> bool:
    return job.is_diverted and job.is_active and job.start_time_s is not None


def _seen(job: Job) -> tuple[_Attempt, _Use]:
    limit_s = None if job.time_limit_s is None else job.end_time_s
    return _Attempt(job.slurm_job_id, job.start_time_s or 0), _Use(job.account, job.cpus, limit_s)


def _spent_since(connection: sqlite3.Connection, day_s: float) -> Mapping[str, AccountUse]:
    rows = connection.execute(
        "SELECT account, SUM(cpus * MAX(0, ended_s - MAX(started_s, ?))) FROM uses WHERE ended_s > ? GROUP BY account",
        (int(day_s), int(day_s)),
    )
    return {account: AccountUse(cpu_s=cpu_s) for account, cpu_s in rows}
