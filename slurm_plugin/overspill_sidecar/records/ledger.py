"""A bounded memory of what was decided and what happened, in a SQLite file: for people who ask later.

Nothing waits for it and nothing depends on it: entries are taken at once and written in batches by a thread. Where the
file cannot be used the ledger keeps them in memory, and says why.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from overspill_sidecar.records.database import open_database

_log = structlog.get_logger(__name__)

_WRITE_EVERY_S = 1.0
#: Entries that wait for the thread; more are dropped, the oldest first: decisions never wait for a disk.
_MOST_UNWRITTEN = 20_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, owner INTEGER NOT NULL, name TEXT NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entries_owner ON entries (owner, at_ms);
CREATE INDEX IF NOT EXISTS entries_name ON entries (name);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to remember.

    Attributes:
        at_ms: when it happened, Unix milliseconds.
        owner: the number to find it by: a user id, a job id.
        name: the name to find it by; may be empty.
        body: makes the bytes; called by the thread.
    """

    at_ms: int
    owner: int
    name: str
    body: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; None is anything."""

    owner: int | None = None
    name: str | None = None
    from_ms: int = 0
    to_ms: int = 2**62
    limit: int = 100


class Ledger:
    """Entries, newest last. A context manager, whose end writes the rest; `run` writes meanwhile."""

    def __init__(self, path: Path | None, keep: int) -> None:
        """Open the file.

        Args:
            path: the file, made if there is none; its directory must exist. None: keep everything in memory.
            keep: entries to remember; the oldest go first.
        """
        self.path = path
        #: Why entries are not in the file, empty where they are.
        self.problem = "" if path else "no file is configured"
        self._keep = keep
        self._unwritten: deque[Entry] = deque(maxlen=_MOST_UNWRITTEN)
        self._lock = asyncio.Lock()
        self._connection = self._open()

    def add(self, entry: Entry) -> None:
        """Take an entry, from whatever thread; costs an append."""
        self._unwritten.append(entry)

    async def run(self) -> None:
        """Write at intervals until cancelled."""
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what was taken. What cannot be written is kept for the next time."""
        async with self._lock:
            batch = self._taken()
            if batch and not await asyncio.to_thread(self._write, batch):
                self._unwritten.extend([*batch, *self._taken()])

    def _taken(self) -> list[Entry]:
        """Take the entries out, one by one: another thread may add meanwhile, and iteration would not bear that."""
        batch = []
        while self._unwritten:
            batch.append(self._unwritten.popleft())
        return batch

    async def find(self, search: Search) -> list[bytes]:
        """Return the bodies of entries, newest first; includes what was taken a moment ago."""
        await self.write()
        async with self._lock:
            return await asyncio.to_thread(self._find, search)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write the rest and close the file."""
        self._write(self._taken())
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            try:
                return open_database(str(self.path), _SCHEMA)
            except sqlite3.Error as error:
                self._note_problem(f"cannot use {self.path}: {error}")
        return open_database(":memory:", _SCHEMA)

    def _write(self, batch: Iterable[Entry]) -> bool:
        rows = [(entry.at_ms, entry.owner, entry.name, body) for entry in batch if (body := _body_of(entry))]
        try:
            with self._connection:
                self._connection.executemany("INSERT INTO entries (at_ms, owner, name, body) VALUES (?, ?, ?, ?)", rows)
                self._connection.execute(
                    "DELETE FROM entries WHERE id <= (SELECT max(id) FROM entries) - ?", (self._keep,)
                )
        except sqlite3.Error as error:
            self._note_problem(f"cannot write {self.path}: {error}")
            return False
        if self.problem.startswith("cannot write"):
            self.problem = ""
        return True

    def _find(self, search: Search) -> list[bytes]:
        rows = self._connection.execute(
            "SELECT body FROM entries WHERE (? IS NULL OR owner = ?) AND (? IS NULL OR name = ?)"
            " AND at_ms BETWEEN ? AND ? ORDER BY id DESC LIMIT ?",
            (search.owner, search.owner, search.name, search.name, search.from_ms, search.to_ms, search.limit),
        )
        return [body for (body,) in rows]

    def _note_problem(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("records are in memory only", action="ledger_unusable", reason=problem)
        self.problem = problem


def _body_of(entry: Entry) -> bytes | None:
    """Return the entry's bytes; None if it cannot be put into any, which must not cost the others theirs."""
    try:
        return entry.body()
    except Exception:  # noqa: BLE001 - the edge of what others made; logged with its traceback
        _log.exception("a record is lost", action="record_lost", owner=entry.owner, name=entry.name)
        return None
