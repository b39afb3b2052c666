"""The ledger: bounded, durable where it can be, and never in anybody's way."""

from __future__ import annotations

from pathlib import Path

import structlog

from overspill.v1.sidecar_pb2 import JobEvent
from overspill_sidecar.records.journal import Journal
from overspill_sidecar.records.ledger import Entry, Ledger, Search


def _entry(number: int, owner: int = 1, name: str = "") -> Entry:
    return Entry(number, owner, name, str(number).encode)


async def test_what_was_taken_is_found_newest_first_by_owner_name_and_time() -> None:
    with Ledger(None, keep=100) as ledger:
        for number in range(5):
            ledger.add(_entry(number, owner=number % 2, name=f"n{number}"))
        assert await ledger.find(Search(owner=0)) == [b"4", b"2", b"0"]
        assert await ledger.find(Search(name="n3")) == [b"3"]
        assert await ledger.find(Search(from_ms=1, to_ms=3, limit=2)) == [b"3", b"2"]


async def test_a_file_survives_the_process_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db", keep=3) as ledger:
        for number in range(5):
            ledger.add(_entry(number))
    with Ledger(tmp_path / "l.db", keep=3) as ledger:
        assert await ledger.find(Search()) == [b"4", b"3", b"2"]
        assert ledger.problem == ""


async def test_a_file_that_cannot_be_used_costs_nothing_but_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_text("no database at all, and long enough to be sure of that" * 100)
    for path in (tmp_path / "absent/l.db", tmp_path / "broken.db"):
        with Ledger(path, keep=3) as ledger:
            ledger.add(_entry(1))
            assert await ledger.find(Search()) == [b"1"]
            assert str(path) in ledger.problem


def _unwritable() -> bytes:
    raise ValueError("Value out of range")


async def test_a_record_that_no_bytes_can_hold_costs_no_other() -> None:
    with Ledger(None, keep=100) as ledger:
        ledger.add(_entry(1))
        ledger.add(Entry(2, 1, "", _unwritable))
        ledger.add(_entry(3))
        assert await ledger.find(Search()) == [b"3", b"1"]


async def test_events_that_name_a_job_are_kept_and_logged_as_ever() -> None:
    before = structlog.get_config()["processors"][:]
    with Ledger(None, keep=100) as ledger:
        with Journal(ledger):
            log = structlog.get_logger("test")
            log.info("run accepted", action="run_accepted", slurm_job_id=7, run_id="r1")
            log.info("about no job", action="started")
        (event,) = map(JobEvent.FromString, await ledger.find(Search(owner=7)))
    assert (event.action, event.event, dict(event.details)) == ("run_accepted", "run accepted", {"run_id": "r1"})
    assert structlog.get_config()["processors"] == before
