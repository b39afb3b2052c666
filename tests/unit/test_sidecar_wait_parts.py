"""The parts that the wait model's features are made of, against the plain way to reckon them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.wait.accounts import Shares, UserShare
from overspill_sidecar.wait.decaying import DecayingPeak, DecayingSum, RecentMean
from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.releases import NEVER_S, Releases
from overspill_sidecar.wait.tracked import Bounded
from overspill_sidecar.wait.waiting import WaitingJob

_releases = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 8)), max_size=12)


def _of(pairs: list[tuple[int, int]]) -> Releases:
    releases = Releases()
    for at_s, cpus in pairs:
        releases.add(float(at_s), float(cpus))
    return releases


@given(_releases, st.integers(-3, 40), st.integers(0, 60))
def test_cpus_come_back_when_enough_jobs_have_ended(pairs: list[tuple[int, int]], cpus: int, now: int) -> None:
    expected, back = (0.0 if cpus <= 0 else NEVER_S), 0
    for at_s, released in sorted(pairs):
        if cpus > 0 and back < cpus <= back + released:
            expected = max(0.0, at_s - now)
        back += released
    assert _of(pairs).seconds_until(cpus, now) == expected
    assert _of(pairs).cpus_by(now) == sum(released for at_s, released in pairs if at_s <= now)


@given(_releases, st.integers(0, 8), st.integers(1, 400), st.integers(0, 60))
def test_work_is_done_when_the_free_cpus_have_had_the_time(
    pairs: list[tuple[int, int]], free: int, work: int, now: int
) -> None:
    left, at_s, capacity, expected = float(work), float(now), free, NEVER_S
    for end_s, cpus in [*sorted((max(now, end), cpus) for end, cpus in pairs), (10**7, 0)]:
        if capacity and left <= capacity * (end_s - at_s):
            expected = at_s - now + left / capacity
            break
        left -= capacity * (end_s - at_s)
        at_s, capacity = end_s, capacity + cpus
    assert _of(pairs).seconds_to_do(work, free, now) == pytest.approx(expected)


@given(_releases.filter(bool), st.data())
def test_what_is_removed_leaves_what_was_there_without_it(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    releases, gone = _of(pairs), data.draw(st.sampled_from(pairs))
    releases.seconds_until(1, 0)
    releases.remove(*map(float, gone))
    rest = pairs.copy()
    rest.remove(gone)
    for cpus in range(1, 20):
        assert releases.seconds_until(cpus, 0) == _of(rest).seconds_until(cpus, 0)


def test_a_long_list_of_releases_finds_room() -> None:
    releases = _of([(at_s, 1) for at_s in range(500)])
    assert releases.count == 500
    assert releases.seconds_until(500, 0) == 499


def test_a_sum_halves_and_a_peak_fades() -> None:
    total, peak = DecayingSum(half_life_s=10), DecayingPeak()
    total.add(4, 0)
    total.add(1, 10)
    assert (total.at(10), total.at(20), total.at(5)) == (3, 1.5, 3)
    peak.note(8, 0)
    peak.note(5, 7 * 86400)
    assert peak.at(7 * 86400) == 5
    assert 4 < peak.at(8 * 86400) < 5


def test_a_recent_mean_of_equal_values_is_that_value_from_the_first_on() -> None:
    mean = RecentMean()
    assert mean.or_else(7) == 7
    for _ in range(3):
        mean.add(2.0, 0.1)
        assert mean.or_else(7) == pytest.approx(2)


def test_a_bounded_table_lets_go_of_what_was_longest_not_asked_for() -> None:
    table: Bounded[int, list[int]] = Bounded(2)
    first = table.made(1, list)
    table.made(2, list)
    assert table.made(1, list) is first
    table.made(3, list)
    assert (table.get(2), table.get(1)) == (None, first)


def test_a_full_table_keeps_users_that_have_jobs() -> None:
    table: Shares[UserShare] = Shares(2)
    for name in ("alice", "bob"):
        table.made(name, UserShare).running = 1
    for name in ("carol", "dave", "erin"):
        table.made(name, UserShare)
    assert set(table.entries) == {"alice", "bob", "erin"}
    table.made("alice", UserShare).running = 0
    table.made("bob", UserShare).running = 0
    table.made("frank", UserShare)
    assert set(table.entries) == {"bob", "frank"}


def test_jobs_end_well_however_many_users_came_meanwhile() -> None:
    queue = QueueState(100)
    queue.users.room = queue.partitions.room = 3
    jobs = [
        queue.look_at(WaitingJob(number, number, 1, 3600, f"user {number}", f"partition {number}"))
        for number in range(20)
    ]
    for job in jobs:
        queue.submitted(job)
    for number, job in enumerate(jobs[:10]):
        queue.started(job, 100.0 + number, job.key)
    for job in jobs[:10]:
        queue.ended(job, 200.0)
    for job in jobs[10:]:
        queue.removed(job)
    assert (queue.everybody.running, len(queue.pending)) == (0, 0)
    assert all(share.running == 0 and not share.pending for share in queue.users.entries.values())
