"""The agent's memory on a real SQLite file."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from overspill.errors import AdminError, ExhaustedError
from overspill.request_id import RequestId
from overspill.states import Outcome
from overspill_agent import runs
from overspill_agent.runs import Ending, Resources, Run
from overspill_agent.store import Store
from overspill_agent.store.database import Database, migrate, open_engine
from overspill_agent.store.reading import read_runs
from overspill_agent.store.store import StoredSignal
from overspill_agent.store.tables import metadata


def run_of(number: int) -> Run:
    return Run(
        run_id=f"r{number}",
        request_id=RequestId("rig", number, None, 1_790_000_000, 0),
        account="alice",
        resources=Resources(cpus=1, memory_mib=100, gpus=0),
        has_stdin=False,
        accepted_at_ms=number,
        state_at_ms=number,
    )


RUN = run_of(1)
ENDED = runs.ended(RUN, Ending(Outcome.SIGNALED, signal=9, reason="x", max_rss_kib=5, stdout_bytes=7), 9)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "agent.db")
    yield store
    store.close()


def _schema(path: Path) -> dict[str, str]:
    engine = open_engine(path)
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'").all()
    engine.dispose()
    return {name: " ".join(str(sql).split()) for name, sql in rows}


def test_the_schema_is_the_sum_of_the_migrations(tmp_path: Path) -> None:
    migrated = open_engine(tmp_path / "migrated.db")
    migrate(migrated)
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrated.dispose()
    created = open_engine(tmp_path / "created.db")
    with created.begin() as connection:
        metadata.create_all(connection)
    created.dispose()
    assert set(_schema(tmp_path / "migrated.db")) == set(_schema(tmp_path / "created.db"))
    for name, sql in _schema(tmp_path / "created.db").items():
        columns = sorted(part.strip() for part in sql.split(","))
        assert columns == sorted(part.strip() for part in _schema(tmp_path / "migrated.db")[name].split(",")), name


def _set_revision(path: Path, revision: str, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


async def test_an_agent_that_is_upgraded_takes_up_the_runs_of_the_first_schema(store: Store, tmp_path: Path) -> None:
    await store.insert(RUN, b"spec")
    store.close()
    columns = [("runs", name) for name in ("image", "gpu_type", "remote_id", "machine", "stop_outcome")]
    drops = [f"ALTER TABLE {table} DROP COLUMN {name}" for table, name in (*columns, ("attempts", "runner_instance"))]
    _set_revision(tmp_path / "agent.db", "0001", "DROP TABLE claims", *drops)
    upgraded = Store(tmp_path / "agent.db")
    assert await upgraded.open_runs() == [RUN]
    assert await upgraded.spec(RUN.run_id) == b"spec"
    other = replace(RUN, run_id="other", request_id=replace(RUN.request_id, slurm_job_id=99))
    assert await upgraded.insert(other, b"spec", "a claim") == other
    upgraded.close()


async def test_a_store_of_a_later_version_is_told_and_left_alone(store: Store, tmp_path: Path) -> None:
    await store.insert(RUN, b"spec")
    store.close()
    _set_revision(tmp_path / "agent.db", "9999")
    before = (tmp_path / "agent.db").read_bytes()
    with pytest.raises(AdminError, match="a later version"):
        Store(tmp_path / "agent.db")
    assert (tmp_path / "agent.db").read_bytes() == before


async def test_a_run_comes_back_as_it_was_stored(store: Store) -> None:
    full = replace(
        ENDED, request_id=RequestId("rig", 5, 3, 7, 2), run_id="full", stop_reason="why", started_at_ms=3, attempt=2
    )
    for run in (RUN, full):
        await store.insert(run, b"spec")
        assert await store.find(run.run_id) == run
        assert await store.find_request(run.request_id) == run
    assert await store.find("nobody") is None


async def test_a_request_id_makes_one_run_even_if_it_comes_twice_at_once(store: Store) -> None:
    stored = await asyncio.gather(*(store.insert(replace(RUN, run_id=f"r{n}"), b"%d" % n) for n in range(20)))
    assert len({run.run_id for run in stored}) == 1
    assert await store.spec(stored[0].run_id) == b"0"


async def test_a_released_run_is_remembered_without_its_spec_and_signals(store: Store) -> None:
    await store.insert(RUN, b"spec")
    await store.begin_attempt(replace(RUN, attempt=1), b"hash")
    await store.add_signal(replace(RUN, signal_seq=1), StoredSignal(1, 15, "tree"))
    await store.save(ENDED)
    await store.release(runs.released(runs.cleaned(ENDED)))
    assert await store.spec(RUN.run_id) is None
    assert await store.token_sha256(RUN.run_id, 1) is None
    assert await store.undelivered_signals(RUN.run_id) == []
    assert await store.open_runs() == []
    remembered = await store.insert(replace(RUN, run_id="again"), b"other")
    assert (remembered.run_id, remembered.ending) == (RUN.run_id, ENDED.ending)


async def test_signals_wait_in_order_until_each_is_delivered(store: Store) -> None:
    await store.insert(RUN, b"")
    for number in (1, 2, 3):
        await store.add_signal(replace(RUN, signal_seq=number), StoredSignal(number, 10 + number, "shell"))
    await store.signal_delivered(replace(RUN, report_seq=4), 2)
    assert [signal.signal_seq for signal in await store.undelivered_signals(RUN.run_id)] == [1, 3]
    found = await store.find(RUN.run_id)
    assert found is not None
    assert found.report_seq == 4


async def test_open_runs_are_those_that_something_is_left_to_do_about(store: Store, tmp_path: Path) -> None:
    released_but_alive = replace(runs.released(ENDED), run_id="a", request_id=run_of(2).request_id, accepted_at_ms=2)
    cleaned = replace(runs.cleaned(ENDED), run_id="b", request_id=run_of(3).request_id, accepted_at_ms=3)
    over = replace(cleaned, run_id="c", request_id=run_of(4).request_id, accepted_at_ms=4, is_released=True)
    for run in (over, cleaned, released_but_alive, RUN):
        await store.insert(run, b"")
    assert [run.run_id for run in await store.open_runs()] == ["r1", "a", "b"]
    assert [run.run_id for run in read_runs(tmp_path / "agent.db")] == ["r1", "a", "b", "c"]


async def test_work_that_fails_takes_nobody_elses_with_it(store: Store) -> None:
    await store.insert(RUN, b"")
    answers = await asyncio.gather(
        store.begin_attempt(replace(RUN, attempt=1), b"one"),
        store.begin_attempt(replace(RUN, attempt=1), b"two"),
        store.insert(run_of(2), b""),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [type(None), AdminError, Run]
    assert await store.token_sha256(RUN.run_id, 1) == b"one"
    assert await store.find("r2") is not None


async def test_the_store_itself_refuses_an_end_without_outcome(store: Store) -> None:
    await store.insert(RUN, b"")
    with pytest.raises(AdminError, match="ended_with_outcome"):
        await store.save(replace(ENDED, ending=None))


async def test_a_full_disk_is_told_as_such_and_leaves_what_there_was(tmp_path: Path) -> None:
    database = Database(tmp_path / "agent.db")

    def limit(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    def fill(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE big (b BLOB)")
        connection.exec_driver_sql("INSERT INTO big VALUES (zeroblob(10000000))")

    def count(connection: sqlalchemy.Connection) -> int:
        return int(connection.exec_driver_sql("SELECT count(*) FROM runs").scalar_one())

    await database.run(limit)
    with pytest.raises(ExhaustedError, match="full"):
        await database.run(fill)
    assert await database.run(count) == 0
    database.close()


async def test_work_that_fills_the_disk_takes_nobody_elses_with_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "agent.db")
    is_free = threading.Event()

    def limit(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE big (b BLOB)")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 3}")

    def insert(size: int) -> Callable[[sqlalchemy.Connection], None]:
        def work(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql("INSERT INTO big VALUES (zeroblob(?))", (size,))

        return work

    def count(connection: sqlalchemy.Connection) -> int:
        return int(connection.exec_driver_sql("SELECT count(*) FROM big").scalar_one())

    await database.run(limit)
    waiting = asyncio.create_task(database.run(lambda _connection: is_free.wait(10)))
    jobs = [asyncio.create_task(database.run(insert(size))) for size in (10, 10_000_000, 20)]
    await asyncio.sleep(0.1)
    is_free.set()
    assert await waiting
    answers = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), ExhaustedError, type(None)]
    assert await database.run(count) == 2
    database.close()


def test_a_store_that_cannot_be_opened_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "agent.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(AdminError, match=r"cannot open the store .*agent\.db: file is not a database"):
        Database(tmp_path / "agent.db")


async def test_many_small_changes_share_their_commits(store: Store) -> None:
    stored = await asyncio.gather(*(store.insert(run_of(number), b"") for number in range(500)))
    assert len({run.run_id for run in stored}) == 500
    assert len(await store.open_runs()) == 500


async def test_an_attempt_belongs_to_the_first_runner_that_asks_even_after_a_restart(
    store: Store, tmp_path: Path
) -> None:
    await store.insert(RUN, b"spec")
    await store.begin_attempt(replace(RUN, attempt=1), b"hash")
    assert await store.claim_attempt(RUN.run_id, 1, "first")
    again = Store(tmp_path / "agent.db")
    assert not await again.claim_attempt(RUN.run_id, 1, "second")
    assert await again.claim_attempt(RUN.run_id, 1, "first")
    assert not await again.claim_attempt(RUN.run_id, 2, "first")
    again.close()
