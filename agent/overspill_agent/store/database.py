"""One SQLite database and the one thread that touches it.

Everything that waits when the thread is free goes into one transaction, each piece of work behind its own savepoint:
under load, many changes share one fsync, and none is answered before it is on disk.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from overspill.errors import AdminError, ExhaustedError, OverspillError, UnavailableError
from overspill_agent import metrics

T = TypeVar("T")
Work = Callable[[Connection], T]
Answer = Callable[[], None]

MIGRATIONS = Path(__file__).parent / "migrations"
_MAX_BATCH = 200
_BUSY_TIMEOUT_S = 10.0


def open_engine(path: Path) -> Engine:
    """Return an engine on the SQLite file at `path` whose commits survive a power loss.

    Transactions are begun by hand: the driver's own begin does not cover savepoints.
    Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html (serializable isolation, savepoints).
    """
    engine = sqlalchemy.create_engine(
        f"sqlite:///{path}", connect_args={"timeout": _BUSY_TIMEOUT_S, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to `revision`; nothing happens if it is there."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: Future[Any]


class Database:
    """Runs work in transactions, on its own thread, in the order given. Owns the engine until `close`."""

    def __init__(self, path: Path) -> None:
        """Open or create the database at `path` and migrate it.

        Raises:
            AdminError: if it cannot be opened or migrated; says what was in the way.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._engine = open_engine(path)
            migrate(self._engine)
        except (SQLAlchemyError, OSError) as error:
            raise AdminError(f"cannot open the store {path}: {_cause(error)}") from error
        except CommandError as error:
            raise AdminError(
                f"the store {path} is of a later version of overspill-agent: install that one again ({error})"
            ) from error
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._thread.start()

    async def run(self, work: Work[T]) -> T:
        """Run `work` in a transaction and return its result once it is durable.

        Raises:
            ExhaustedError: the disk is full.
            UnavailableError: the database does not take it now. Nothing of `work` was kept.
        """
        done: Future[T] = Future()
        self._jobs.put(_Job(work, done))
        try:
            with metrics.STORE_SECONDS.time():
                return await asyncio.wrap_future(done)
        except IntegrityError as error:
            raise AdminError(f"the store refuses a change: {_cause(error)}") from error
        except SQLAlchemyError as error:
            metrics.STORE_FAILURES.inc()
            raise as_overspill_error(error) from error

    def close(self) -> None:
        """Finish what was given and close. Blocks for as long as that takes."""
        self._jobs.put(None)
        self._thread.join()
        self._engine.dispose()

    def _serve(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            is_closing = False
            while len(batch) < _MAX_BATCH and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    is_closing = True
                    break
                batch.append(following)
            self._run_batch(batch)
            if is_closing:
                return

    def _run_batch(self, batch: list[_Job]) -> None:
        """Run jobs in one transaction; where one of them breaks it for all, each in its own."""
        if len(batch) == 1:
            self._run_alone(batch[0])
            return
        try:
            with self._engine.begin() as connection:
                answers = [_attempt(job, connection) for job in batch]
        except SQLAlchemyError:
            for job in batch:
                self._run_alone(job)
            return
        for answer in answers:
            answer()

    def _run_alone(self, job: _Job) -> None:
        try:
            with self._engine.begin() as connection:
                result = job.work(connection)
        except Exception as error:  # noqa: BLE001  whatever the work raises is its owner's, not this thread's
            _failure(job, error)()
            return
        _success(job, result)()


def _attempt(job: _Job, connection: Connection) -> Answer:
    """Run one job behind its savepoint and return what tells its owner, to be called after the commit.

    Raises:
        SQLAlchemyError: SQLite has undone the whole transaction, as it does when the disk is full.
            Source: https://www.sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction
    """
    try:
        with connection.begin_nested():
            result = job.work(connection)
    except Exception as error:
        if not _is_in_transaction(connection):
            raise OperationalError("", {}, error) from error
        return _failure(job, error)
    return _success(job, result)


def _is_in_transaction(connection: Connection) -> bool:
    driver_connection = connection.connection.driver_connection
    return isinstance(driver_connection, sqlite3.Connection) and driver_connection.in_transaction


def _success(job: _Job, result: object) -> Answer:
    return lambda: _tell(job, lambda: job.done.set_result(result))


def _failure(job: _Job, error: Exception) -> Answer:
    return lambda: _tell(job, lambda: job.done.set_exception(error))


def _tell(job: _Job, answer: Answer) -> None:
    """Answer unless the owner has gone away meanwhile; what is done stays done."""
    if job.done.set_running_or_notify_cancel():
        answer()


def as_overspill_error(error: SQLAlchemyError) -> OverspillError:
    """Return what a failure of the database means to a caller: full, or not available now."""
    cause = _cause(error)
    if "full" in cause:
        return ExhaustedError(f"the agent's store is full: {cause}")
    return UnavailableError(f"the agent's store does not answer: {cause}")


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)
