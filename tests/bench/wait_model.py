"""The wait model with a long queue, and with the longest that it plays forward: what a prediction and an event cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial

from overspill_sidecar.wait import OnlineModel, WaitingJob, trees
from tests.bench.bench import Bench
from tests.bench.figure import Figure, spread

#: Jobs running, and jobs pending.
_QUEUES = (2_000, 10_000), (150, 150)
_CPUS_PER_RUNNING, _CYCLES = 10, 2_000
_BUDGETS = {50: "< 0.3 ms", 99: "< 5 ms"}


def measure(bench: Bench) -> Iterator[Figure]:
    for running, pending in _QUEUES:
        bench.say(f"a queue of {pending:,}")
        queue = _Queue(running, pending)
        for way in (f"{pending:,} pending, without trees", f"{pending:,} pending, with trees"):
            bench.say(f"predictions and events, {way}")
            predicted, submitted, started, ended = queue.cycles()
            yield from spread(f"predict, {way}", predicted, budgets=_BUDGETS if pending == _QUEUES[0][1] else {})
            yield from spread(f"submitted, not asked about before, {way}", submitted)
            yield from spread(f"started, {way}", started)
            yield from spread(f"ended, {way}", ended)
            queue.fit()


class _Queue:
    def __init__(self, running: int, pending: int) -> None:
        self._random_numbers = random.Random(1)  # noqa: S311 - a workload, not a secret
        self._model = OnlineModel(_CPUS_PER_RUNNING * running)
        self._made = 0
        self._now_s = 1_000_000.0
        self._running: list[int] = []
        self._pending: list[int] = []
        while len(self._running) < running:
            self._submit()
            self._start()
        while len(self._pending) < pending:
            self._submit()

    def cycles(self) -> tuple[list[float], list[float], list[float], list[float]]:
        """Keep the queue as long as it is, and return the milliseconds of each prediction and event."""
        predicted, submitted, started, ended = [], [], [], []
        for _ in range(_CYCLES):
            asked = self._job()
            predicted.append(_timed(partial(self._model.predict, asked, self._now_s)))
            submitted.append(_timed(self._submit))
            started.append(_timed(self._start))
            ended.append(_timed(self._end))
        return predicted, submitted, started, ended

    def fit(self) -> None:
        self._model.take_trees(trees.fit(self._model.training_set(self._now_s)))

    def _submit(self) -> None:
        self._now_s += 1.0
        job = self._job()
        self._made += 1
        self._pending.append(self._made)
        self._model.submitted(job)

    def _start(self) -> None:
        key = self._pending.pop(self._random_numbers.randrange(len(self._pending)))
        self._running.append(key)
        self._model.started(key, self._now_s)

    def _end(self) -> None:
        self._model.ended(self._running.pop(0), self._now_s)

    def _job(self) -> WaitingJob:
        return WaitingJob(
            key=self._made + 1,
            submit_s=self._now_s,
            cpus=2 ** self._random_numbers.randrange(8),
            time_limit_s=60.0 * 2 ** self._random_numbers.randrange(11),
            user=f"user{self._random_numbers.randrange(300)}",
            partition=f"p{self._random_numbers.randrange(6)}",
        )


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e3
