"""A pool of CPUs under first-come EASY backfill."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.simulation.pool import Change, Pool, Task

_CPUS = 8
_task = st.tuples(st.integers(1, _CPUS), st.integers(1, 20), st.integers(0, 20), st.integers(0, 6))
_tasks = st.lists(_task, min_size=1, max_size=25)


def _played(pool: Pool, last_s: float = math.inf) -> list[Change]:
    changes: list[Change] = []
    while math.isfinite(pool.next_end_s) and pool.next_end_s <= last_s:
        changes += pool.step()
    return changes


def _submitted(pool: Pool, tasks: list[tuple[int, int, int, int]]) -> tuple[dict[int, float], float]:
    """Submit the tasks, each some seconds after the one before; return who started when, and the time."""
    starts: dict[int, float] = {}
    now_s = 0.0
    for key, (cpus, run_s, more_s, later_s) in enumerate(tasks):
        now_s += later_s
        starts.update({change.key: change.at_s for change in _played(pool, now_s) if change.has_started})
        if pool.submit(Task(key, cpus, run_s, run_s + more_s), now_s):
            starts[key] = now_s
    return starts, now_s


@given(_tasks)
def test_every_task_starts_and_no_cpu_is_given_twice(tasks: list[tuple[int, int, int, int]]) -> None:
    pool = Pool(_CPUS)
    starts, _ = _submitted(pool, tasks)
    starts.update({change.key: change.at_s for change in _played(pool) if change.has_started})
    assert starts.keys() == set(range(len(tasks)))
    assert (pool.free_cpus, pool.is_queueing) == (_CPUS, False)
    for at_s in starts.values():
        running = [tasks[key][0] for key, since_s in starts.items() if since_s <= at_s < since_s + tasks[key][1]]
        assert sum(running) <= _CPUS


@given(_tasks, _task)
def test_the_wait_that_is_foretold_is_the_wait_that_comes_if_nobody_follows(
    tasks: list[tuple[int, int, int, int]], last: tuple[int, int, int, int]
) -> None:
    pool = Pool(_CPUS)
    _, now_s = _submitted(pool, tasks)
    task = Task(len(tasks), last[0], last[1], last[1] + last[2])
    foretold_s = pool.wait_s(task, now_s, math.inf)
    starts = [now_s] if pool.submit(task, now_s) else []
    starts += [change.at_s for change in _played(pool) if change.has_started and change.key == task.key]
    assert starts == [now_s + foretold_s]


@given(_tasks, _task, st.integers(0, 60))
def test_a_wait_beyond_the_horizon_is_infinite(
    tasks: list[tuple[int, int, int, int]], last: tuple[int, int, int, int], horizon_s: int
) -> None:
    pool = Pool(_CPUS)
    _, now_s = _submitted(pool, tasks)
    task = Task(len(tasks), last[0], last[1], last[1] + last[2])
    wait_s = pool.wait_s(task, now_s, math.inf)
    assert pool.wait_s(task, now_s, horizon_s) == (wait_s if wait_s <= horizon_s else math.inf)


@given(_tasks, st.data())
def test_the_rest_of_a_wait_is_what_it_is_if_nobody_comes(
    tasks: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    pool = Pool(_CPUS)
    starts, now_s = _submitted(pool, tasks)
    queued = [key for key in range(len(tasks)) if key not in starts]
    if not queued:
        return
    key = data.draw(st.sampled_from(queued))
    rest_s, horizon_s = pool.rest_s(key, now_s, math.inf), data.draw(st.integers(0, 60))
    assert pool.rest_s(key, now_s, horizon_s) == (rest_s if rest_s <= horizon_s else math.inf)
    (start,) = [change for change in _played(pool) if change.has_started and change.key == key]
    assert start.at_s == now_s + rest_s


@given(_tasks, st.data())
def test_a_task_that_is_withdrawn_leaves_the_queue_to_the_others(
    tasks: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    pool = Pool(_CPUS)
    starts, now_s = _submitted(pool, tasks)
    queued = [key for key in range(len(tasks)) if key not in starts]
    if not queued:
        return
    gone = data.draw(st.sampled_from(queued))
    changes = [*pool.withdraw(gone, now_s), *_played(pool)]
    started = [change.key for change in changes if change.has_started]
    assert sorted(started) == [key for key in queued if key != gone]
    assert pool.free_cpus == _CPUS


def test_who_stood_behind_the_first_starts_when_that_goes() -> None:
    pool = Pool(4)
    assert pool.submit(Task(0, 3, 10, 10), 0)
    assert not pool.submit(Task(1, 4, 10, 10), 1)
    assert not pool.submit(Task(2, 1, 20, 20), 2)
    assert pool.withdraw(1, 3) == [Change(3, 2, has_started=True)]


def test_a_small_task_overtakes_only_if_the_first_in_the_queue_does_not_wait_for_it() -> None:
    pool = Pool(4)
    assert pool.submit(Task(0, 3, 10, 10), 0)
    assert not pool.submit(Task(1, 4, 10, 10), 1)
    assert not pool.submit(Task(2, 1, 5, 20), 2)
    assert pool.submit(Task(3, 1, 5, 8), 2)
    assert [(change.at_s, change.key) for change in _played(pool) if change.has_started] == [(10, 1), (20, 2)]


def _plainly(tasks: list[tuple[int, int, int, int]]) -> dict[int, float]:
    """Return who starts when, by the rule as it is written down: looked at in each second, nothing remembered."""
    came: dict[int, int] = {}
    for key, task in enumerate(tasks):
        came[key] = came.get(key - 1, 0) + task[3]
    starts: dict[int, float] = {}
    now_s = 0
    while len(starts) < len(tasks):
        for _ in tasks:
            queue = [key for key, at_s in came.items() if at_s <= now_s and key not in starts]
            running = {key: at_s for key, at_s in starts.items() if now_s < at_s + tasks[key][1]}
            free_cpus = _CPUS - sum(tasks[key][0] for key in running)
            chosen = [key for key in queue[:1] if tasks[key][0] <= free_cpus] or [
                key for key in queue[1:] if _may_overtake(tasks, key, queue[0], running, now_s)
            ]
            starts.update(dict.fromkeys(chosen[:1], now_s))
        now_s += 1
    return starts


def _may_overtake(
    tasks: list[tuple[int, int, int, int]], key: int, first: int, running: dict[int, float], now_s: int
) -> bool:
    """Tell whether the first of the queue could start no later for it, by all limits."""

    def start_of_first(also: dict[int, float]) -> float:
        ends = {at_s + tasks[other][1] + tasks[other][2]: None for other, at_s in also.items()}
        for end_s in sorted(ends):
            busy = [tasks[other][0] for other, at_s in also.items() if at_s + tasks[other][1] + tasks[other][2] > end_s]
            if sum(busy) + tasks[first][0] <= _CPUS:
                return end_s
        return math.inf

    fits = sum(tasks[other][0] for other in running) + tasks[key][0] <= _CPUS
    return fits and start_of_first({**running, key: now_s}) <= start_of_first(running)


@given(_tasks)
def test_who_starts_when_is_the_rule_looked_at_anew_in_each_second(tasks: list[tuple[int, int, int, int]]) -> None:
    pool = Pool(_CPUS)
    starts, _ = _submitted(pool, tasks)
    starts.update({change.key: change.at_s for change in _played(pool) if change.has_started})
    assert starts == _plainly(tasks)
