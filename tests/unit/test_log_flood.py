"""No user and no stranger fills the admin's disk through our logs."""

from __future__ import annotations

import logging

import pytest
from structlog import DropEvent
from structlog.typing import EventDict

from overspill import log_flood
from overspill.log_flood import FloodFilter, FloodGate


class _Clock:
    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(log_flood, "time", clock)
    return clock


def _passed(gate: FloodGate, times: int, **keys: object) -> list[EventDict]:
    passed = []
    for _ in range(times):
        try:
            passed.append(gate(None, "info", {"action": "signal_stored", **keys}))
        except DropEvent:
            continue
    return passed


def test_one_job_is_heard_so_often_a_minute_and_the_last_line_says_so(clock: _Clock) -> None:
    gate = FloodGate()
    passed = _passed(gate, 1_000, slurm_job_id=7)
    assert len(passed) == 30
    assert [line.get("is_last_of_minute") for line in passed] == [None] * 29 + [True]
    clock.now_s += 60
    assert len(_passed(gate, 1_000, slurm_job_id=7)) == 30


def test_one_jobs_flood_silences_no_other_job_and_no_other_action(clock: _Clock) -> None:
    gate = FloodGate()
    _passed(gate, 1_000, slurm_job_id=7)
    assert len(_passed(gate, 1, slurm_job_id=8)) == 1
    assert len(_passed(gate, 1, slurm_job_id=7, action="run_state")) == 1


def test_a_cluster_that_makes_jobs_and_users_up_is_bounded_and_silences_no_other(clock: _Clock) -> None:
    gate = FloodGate()

    def is_passed(cluster: str, number: int) -> bool:
        about = {"action": "submit_refused", "slurm_cluster": cluster, "slurm_job_id": number, "user_id": number}
        try:
            gate(None, "warning", about)
        except DropEvent:
            return False
        return True

    assert sum(is_passed("mallory", number) for number in range(5_000)) == 1_000
    assert is_passed("rig", 1)
    assert len(_passed(gate, 20, slurm_cluster="mallory", slurm_job_id=1)) == 20


def test_what_is_about_nobody_may_come_more_often(clock: _Clock) -> None:
    assert len(_passed(FloodGate(), 1_000)) == 300


def test_whoever_asks_for_debug_messages_gets_them_all(clock: _Clock) -> None:
    gate = FloodGate()
    assert all(gate(None, "debug", {"action": "decided"}) for _ in range(1_000))


def test_what_libraries_repeat_is_cut_off_as_well(clock: _Clock) -> None:
    flood = FloodFilter()
    records = [logging.LogRecord("uvicorn", logging.WARNING, "", 0, "rubbish %d", (i,), None) for i in range(100)]
    assert sum(map(flood.filter, records)) == 30
