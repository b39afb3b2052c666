"""From which moment a lease counts: from an answer that the relay says it has, never from a request alone (F36)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from overspill_agent import homes
from overspill_agent.homes import Homes, name_of

_HOME = name_of("rig", "relay1")


class Clock:
    """The machine's clock since boot, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(homes, "_now_s", clock)
    return clock


def test_requests_that_confirm_nothing_renew_nothing(tmp_path: Path, clock: Clock) -> None:
    of = Homes(tmp_path / "homes.json")
    for lease_id in (0, 12345):
        clock.now += 50
        of.answer(_HOME)
        of.confirm(_HOME, lease_id)
    assert of.silence_s(_HOME) == 100


def test_a_confirmed_answer_renews_from_when_it_was_sent(tmp_path: Path, clock: Clock) -> None:
    of = Homes(tmp_path / "homes.json")
    first = of.answer(_HOME)
    clock.now += 30
    second = of.answer(_HOME)
    clock.now += 5
    of.confirm(_HOME, second)
    of.confirm(_HOME, first)
    assert of.silence_s(_HOME) == 5


def test_a_relay_renews_its_own_leases_only(tmp_path: Path, clock: Clock) -> None:
    of = Homes(tmp_path / "homes.json")
    clock.now += 30
    lease_id = of.answer(_HOME)
    for other in (name_of("rig", "relay2"), name_of("other", "relay1")):
        of.confirm(other, lease_id)
        assert of.silence_s(other) == 30
    assert of.silence_s(_HOME) == 30


def test_a_cluster_that_makes_names_up_fills_no_memory_and_harms_no_other_cluster(tmp_path: Path, clock: Clock) -> None:
    of = Homes(tmp_path / "homes.json")
    of.confirm(_HOME, of.answer(_HOME))
    for number in range(1000):
        name = name_of("mallory", f"{number}" + "x" * 100_000)
        of.confirm(name, of.answer(name))
        clock.now += 10
    clock.now += 10
    of.confirm(name, of.answer(name))
    assert (tmp_path / "homes.json").stat().st_size < 20_000
    clock.now -= 5
    assert of.silence_s(_HOME) == 10_005
    of.confirm(_HOME, of.answer(_HOME))
    assert of.silence_s(_HOME) == 0


def test_a_relay_that_lives_is_remembered_however_many_others_of_its_cluster_have_come_and_gone(
    tmp_path: Path, clock: Clock
) -> None:
    of = Homes(tmp_path / "homes.json")
    of.confirm(_HOME, of.answer(_HOME))
    for number in range(100):
        other = name_of("rig", f"pod-{number}")
        of.confirm(other, of.answer(other))
        clock.now += 10
        of.confirm(_HOME, of.answer(_HOME))
    assert of.silence_s(_HOME) == 0


def test_a_restart_of_the_agent_prolongs_no_lease(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "homes.json"
    of = Homes(path)
    of.confirm(_HOME, of.answer(_HOME))
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({_HOME: saved[_HOME] - 300}))
    clock.now += 1_000_000  # another boot's clock says nothing
    assert Homes(path).silence_s(_HOME) == pytest.approx(300, abs=30)


def test_a_time_in_the_future_counts_as_now(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "homes.json"
    path.write_text(json.dumps({_HOME: time.time() + 10_000}))
    of = Homes(path)
    clock.now += 7
    assert of.silence_s(_HOME) == 7


@pytest.mark.parametrize("content", ["", "[]", '{"a": []}', "\x00"])
def test_a_spoilt_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "homes.json").write_text(content)
    assert Homes(tmp_path / "homes.json").silence_s(_HOME) < 60


def test_a_file_that_cannot_be_written_is_no_obstacle(tmp_path: Path, clock: Clock) -> None:
    of = Homes(tmp_path / "missing" / "homes.json")
    clock.now += 30
    of.confirm(_HOME, of.answer(_HOME))
    assert of.silence_s(_HOME) == 0
