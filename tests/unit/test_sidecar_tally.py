"""What each account's diverted jobs have had today, and what is known of it after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from overspill_sidecar.cluster import Job, Snapshot, Trail
from overspill_sidecar.decision.budget import AccountUse, day_start_s
from overspill_sidecar.records.tally import Tally
from tests.unit.sidecar_cluster import job, running, snapshot

_HOUR_S = 3600
#: Noon of some day, by this machine's clock.
_NOON_S = int(datetime(2027, 1, 15, 12).astimezone().timestamp())
_TRAIL = Trail("d-1", "site-a", "batch")


@pytest.fixture(name="tally")
def _tally(tmp_path: Path) -> Iterator[Tally]:
    with Tally(tmp_path / "accounts.db") as tally:
        yield tally


def _at(now_s: float, *jobs: Job) -> Snapshot:
    return replace(snapshot(*jobs), unix_time_s=now_s)


def _diverted(slurm_job_id: int, started_s: int = _NOON_S, limit_s: int | None = 2 * _HOUR_S, **changes: Any) -> Job:
    """Return a job of two CPUs that runs at the site."""
    return running(
        slurm_job_id,
        "ovs1",
        start_time_s=started_s,
        time_limit_s=limit_s,
        end_time_s=None if limit_s is None else started_s + limit_s,
        **{"partitions": ("overspill",), "trail": _TRAIL, "account": "physics", **changes},
    )


def test_a_job_counts_with_its_limit_while_it_runs_and_with_what_it_had_once_it_is_over(tally: Tally) -> None:
    waiting = job(
        7, partitions=("batch", "overspill"), trail=_TRAIL, account="physics", cpus=2, time_limit_s=2 * _HOUR_S
    )
    assert tally.observe(_at(_NOON_S, waiting)) == {"physics": AccountUse(1, 4 * _HOUR_S)}
    assert tally.observe(_at(_NOON_S + 5, _diverted(7))) == {"physics": AccountUse(1, 4 * _HOUR_S)}
    assert tally.observe(_at(_NOON_S + 600)) == {"physics": AccountUse(0, 2 * 600)}
    assert tally.observe(_at(_NOON_S + 900)) == {"physics": AccountUse(0, 2 * 600)}


def test_what_ran_at_home_or_was_never_diverted_does_not_count(tally: Tally) -> None:
    at_home = _diverted(8, partitions=("batch",))
    foreign = _diverted(9, trail=None)
    assert tally.observe(_at(_NOON_S, at_home, foreign)) == {}
    assert tally.observe(_at(_NOON_S + 600)) == {}


def test_each_attempt_of_a_job_counts(tally: Tally) -> None:
    tally.observe(_at(_NOON_S, _diverted(7)))
    tally.observe(_at(_NOON_S + 600, _diverted(7, started_s=_NOON_S + 600)))
    assert tally.observe(_at(_NOON_S + 900)) == {"physics": AccountUse(0, 2 * 900)}


def test_a_new_router_knows_what_an_earlier_one_saw(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    with Tally(path) as tally:
        tally.observe(_at(_NOON_S, _diverted(7), _diverted(8)))
        tally.observe(_at(_NOON_S + 600, _diverted(8)))
    with Tally(path) as tally:
        known = tally.observe(_at(_NOON_S + 700, _diverted(8)))
        assert known == {"physics": AccountUse(1, 2 * 600 + 4 * _HOUR_S)}


@pytest.mark.parametrize(
    ("limit_s", "away_s", "counted_s"),
    [
        # In doubt it ran as long as it may, and a little longer.
        (2 * _HOUR_S, 9 * _HOUR_S, 2 * _HOUR_S + 300),
        (2 * _HOUR_S, 1 * _HOUR_S, 1 * _HOUR_S),
        (None, 9 * _HOUR_S, 9 * _HOUR_S),
    ],
)
def test_a_job_that_ended_while_no_router_looked_counts_as_long_as_it_may_have_run(
    tmp_path: Path, limit_s: int | None, away_s: int, counted_s: int
) -> None:
    path = tmp_path / "accounts.db"
    with Tally(path) as tally:
        tally.observe(_at(_NOON_S, _diverted(7, limit_s=limit_s)))
    with Tally(path) as tally:
        assert tally.observe(_at(_NOON_S + away_s)) == {"physics": AccountUse(0, 2 * counted_s)}


def test_a_new_day_forgets_what_was_had_on_the_one_before(tally: Tally) -> None:
    midnight_s = int(day_start_s(_NOON_S + 24 * _HOUR_S))
    tally.observe(_at(_NOON_S, _diverted(7), _diverted(8, started_s=midnight_s - 600)))
    tally.observe(_at(_NOON_S + 600, _diverted(8, started_s=midnight_s - 600)))
    assert tally.observe(_at(midnight_s + 60)) == {"physics": AccountUse(0, 2 * 60)}
    assert tally.observe(_at(midnight_s + 24 * _HOUR_S)) == {}


def test_a_day_begins_at_midnight_of_this_host() -> None:
    began = datetime.fromtimestamp(day_start_s(_NOON_S)).astimezone()
    assert (began.hour, began.minute, began.day) == (0, 0, 15)
    assert day_start_s(day_start_s(_NOON_S)) == day_start_s(_NOON_S)


def test_a_file_that_cannot_be_used_makes_the_use_unknown_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "accounts.db"
    with Tally(path) as tally:
        assert tally.observe(_at(_NOON_S, _diverted(7))) is None
        assert tally.problem == f"cannot use {path}: unable to open database file"
        path.parent.mkdir()
        assert tally.observe(_at(_NOON_S, _diverted(7))) == {"physics": AccountUse(1, 4 * _HOUR_S)}
        assert tally.problem == ""


def test_a_file_that_is_no_database_is_left_alone_and_said(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    path.write_text("precious")
    with Tally(path) as tally:
        assert tally.observe(_at(_NOON_S)) is None
        assert "file is not a database" in tally.problem
    assert path.read_text() == "precious"
