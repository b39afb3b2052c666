"""What the agent remembers, as a class with a method per intent. Every write is durable when its method returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from overspill.request_id import RequestId
from overspill_agent.runs import Run
from overspill_agent.store.database import Database
from overspill_agent.store.rows import row_of, run_of
from overspill_agent.store.tables import attempts, claims, runs, signals, specs


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal that waits for the runner. `scope` is "shell" or "tree"."""

    signal_seq: int
    signal: int
    scope: str


class Store:
    """Runs, their specs, attempts and signals. All methods may raise `TransientError`; then nothing was kept."""

    def __init__(self, path: Path) -> None:
        """Open or create the database at `path`; see `Database`."""
        self._database = Database(path)

    def close(self) -> None:
        self._database.close()

    async def check(self) -> None:
        """Take the right to write and give it back: raises what a write would."""
        await self._database.run(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

    async def open_runs(self) -> list[Run]:
        """Return the runs that are not released or of which something may be left at the backend, oldest first."""
        query = select(runs).where(or_(~runs.c.is_released, ~runs.c.is_cleaned)).order_by(runs.c.accepted_at_ms)
        return await self._database.run(
            lambda connection: [run_of(row) for row in connection.execute(query).mappings()]
        )

    async def count(self) -> int:
        """Return how many runs there have ever been."""
        query = select(func.count()).select_from(runs)
        return await self._database.run(lambda connection: connection.execute(query).scalar_one())

    async def find(self, run_id: str) -> Run | None:
        return await self._database.run(lambda connection: _find(connection, run_id))

    async def find_request(self, request_id: RequestId) -> Run | None:
        """Return the run that this request id has made, released or not."""
        return await self._database.run(lambda connection: _find_request(connection, request_id))

    async def insert(self, run: Run, spec: bytes, claim: str = "") -> Run:
        """Store a new run, its serialised spec and the claim that came with it, which stays with the run's row.

        Returns:
            The run, or the one that its request id has made before.
        """

        def work(connection: Connection) -> Run:
            first = _find_request(connection, run.request_id)
            if first is not None:
                return first
            connection.execute(insert(runs).values(row_of(run)))
            connection.execute(insert(specs).values(run_id=run.run_id, spec=spec))
            if claim:
                connection.execute(insert(claims).values(run_id=run.run_id, claim=claim))
            return run

        return await self._database.run(work)

    async def claim(self, run_id: str) -> str | None:
        """Return what the cluster signed for the run; None for a run of before clusters did."""
        query = select(claims.c.claim).where(claims.c.run_id == run_id)
        return await self._database.run(lambda connection: connection.execute(query).scalar())

    async def save(self, run: Run) -> None:
        await self._database.run(lambda connection: _save(connection, run))

    async def begin_attempt(self, run: Run, token_sha256: bytes) -> None:
        """Store the intent to start `run.attempt`, before anything is started."""

        def work(connection: Connection) -> None:
            _save(connection, run)
            connection.execute(
                insert(attempts).values(
                    run_id=run.run_id, attempt=run.attempt, token_sha256=token_sha256, begun_at_ms=run.state_at_ms
                )
            )

        await self._database.run(work)

    async def token_sha256(self, run_id: str, attempt: int) -> bytes | None:
        """Return the hash of the attempt's token; None if there is no such attempt, or the run is released."""
        query = select(attempts.c.token_sha256).where(attempts.c.run_id == run_id, attempts.c.attempt == attempt)
        return await self._database.run(lambda connection: connection.execute(query).scalar())

    async def claim_attempt(self, run_id: str, attempt: int, runner_instance: str) -> bool:
        """Give an attempt to the first runner that asks; return whether it is this one's. Idempotent."""

        def work(connection: Connection) -> bool:
            here = (attempts.c.run_id == run_id) & (attempts.c.attempt == attempt)
            free = here & attempts.c.runner_instance.is_(None)
            connection.execute(update(attempts).where(free).values(runner_instance=runner_instance))
            return connection.execute(select(attempts.c.runner_instance).where(here)).scalar() == runner_instance

        return await self._database.run(work)

    async def spec(self, run_id: str) -> bytes | None:
        """Return the run's serialised spec; None once it is released."""
        query = select(specs.c.spec).where(specs.c.run_id == run_id)
        return await self._database.run(lambda connection: connection.execute(query).scalar())

    async def add_signal(self, run: Run, signal: StoredSignal) -> None:
        """Store a signal together with the run that has accepted it."""

        def work(connection: Connection) -> None:
            _save(connection, run)
            connection.execute(
                insert(signals).values(
                    run_id=run.run_id,
                    signal_seq=signal.signal_seq,
                    signal=signal.signal,
                    scope=signal.scope,
                    is_delivered=False,
                )
            )

        await self._database.run(work)

    async def signal_delivered(self, run: Run, signal_seq: int) -> None:
        """Store that the runner has taken the signal, together with the run that knows it."""

        def work(connection: Connection) -> None:
            _save(connection, run)
            connection.execute(
                update(signals)
                .where(signals.c.run_id == run.run_id, signals.c.signal_seq == signal_seq)
                .values(is_delivered=True)
            )

        await self._database.run(work)

    async def undelivered_signals(self, run_id: str) -> list[StoredSignal]:
        """Return the signals that wait for the runner, in their order."""
        query = (
            select(signals.c.signal_seq, signals.c.signal, signals.c.scope)
            .where(signals.c.run_id == run_id, ~signals.c.is_delivered)
            .order_by(signals.c.signal_seq)
        )
        return await self._database.run(lambda connection: [StoredSignal(*row) for row in connection.execute(query)])

    async def release(self, run: Run) -> None:
        """Store that the run is released and forget its spec, attempts and signals. Row and claim stay forever."""

        def work(connection: Connection) -> None:
            _save(connection, run)
            for table in (specs, attempts, signals):
                connection.execute(delete(table).where(table.c.run_id == run.run_id))

        await self._database.run(work)


def _save(connection: Connection, run: Run) -> None:
    connection.execute(update(runs).where(runs.c.run_id == run.run_id).values(row_of(run)))


def _find(connection: Connection, run_id: str) -> Run | None:
    row = connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().first()
    return None if row is None else run_of(row)


def _find_request(connection: Connection, request_id: RequestId) -> Run | None:
    row = connection.execute(select(runs).where(runs.c.request_id == str(request_id))).mappings().first()
    return None if row is None else run_of(row)
