"""The wait model while a router runs: cold, warm, shared by threads, and kept for the next router."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
from click.testing import CliRunner

from overspill_sidecar import forecast
from overspill_sidecar.cli import main
from overspill_sidecar.cluster import Job, Partition, Snapshot
from overspill_sidecar.forecast import Forecast
from overspill_sidecar.history import SACCT_FIELDS
from overspill_sidecar.metrics import REGISTRY
from overspill_sidecar.wait import LearnedModel, OnlineModel, Outlook, PlanModel, QueuedJob, learned, trees
from overspill_sidecar.wait.learned import LearnedWait, Said, forget_all_but
from overspill_sidecar.wait.state import load
from tests.integration.sidecar_road import eventually_async
from tests.unit.sidecar_cluster import NOW_S, job, partition, running, snapshot

_HOUR_S = 3600
#: When all that was lived through is over.
_LATER_S = 60 * 24 * _HOUR_S + 60
_ASKED = QueuedJob("batch", 4, _HOUR_S, user_id=2001)
_SHORT = QueuedJob("batch", 1, 60, user_id=2002)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "waits.state"


def _forecast(path: Path, enough_jobs: int = 40) -> Forecast:
    return Forecast(path, {"overspill"}, enough_jobs, clock=lambda: NOW_S + _LATER_S)


def _at(after_s: int, *jobs: Job) -> Snapshot:
    return replace(snapshot(*jobs), unix_time_s=NOW_S + after_s)


def _live(lived: Forecast, days: int) -> None:
    """Have it see days in which alice's jobs of 4 CPUs wait for hours, and bob's of one start at once."""
    for day in range(days):
        at_s, number = day * 24 * _HOUR_S, 10 * day
        times: dict[str, Any] = {"submit_time_s": NOW_S + at_s, "eligible_time_s": NOW_S + at_s}
        long = job(number + 1, cpus=4, **times)
        short: dict[str, Any] = {"cpus": 1, "time_limit_s": 60, "user_id": 2002, "user_name": "bob", **times}
        lived.model_of(_at(at_s, long, job(number + 2, **short)))
        short_runs = replace(running(number + 2, "c1"), **short, start_time_s=NOW_S + at_s + 5)
        lived.model_of(_at(at_s + 10, long, short_runs))
        long_runs = replace(running(number + 1, "c1", cpus=4), **times, start_time_s=NOW_S + at_s + 5 * _HOUR_S)
        lived.model_of(_at(at_s + 6 * _HOUR_S, long_runs))


def test_requested_times_answer_until_enough_jobs_were_seen(path: Path) -> None:
    young = _forecast(path)
    assert isinstance(young.model_of(_at(0)), PlanModel)
    _live(young, days=20)
    assert isinstance(young.model_of(_at(20 * 24 * _HOUR_S)), LearnedModel)


def test_what_was_learned_is_answered_and_survives_the_router(path: Path) -> None:
    lived = _forecast(path)
    _live(lived, days=60)
    before = lived.model_of(_at(60 * 24 * _HOUR_S))
    long, short = before.predict(_ASKED), before.predict(_SHORT)
    assert long is not None
    assert short is not None
    assert long.p_exceeds(1800) > 2 * short.p_exceeds(1800)
    assert not long.is_upper_bound
    asyncio.run(_run_and_stop(lived))
    next_router = _forecast(path)
    assert next_router.jobs == lived.jobs
    after = next_router.model_of(_at(60 * 24 * _HOUR_S)).predict(_ASKED)
    assert after is not None
    assert after.p_exceeds(1800) == pytest.approx(long.p_exceeds(1800))


def test_a_job_that_waits_already_is_likelier_to_wait_long(path: Path) -> None:
    lived = _forecast(path)
    _live(lived, days=60)
    now_s = NOW_S + _LATER_S
    waiting = job(999, submit_time_s=now_s - 1700, eligible_time_s=now_s - 1700, cpus=4)
    model = lived.model_of(_at(60 * 24 * _HOUR_S))
    fresh = model.pending(replace(waiting, submit_time_s=now_s, eligible_time_s=now_s), "batch")
    pending = model.pending(waiting, "batch")
    assert fresh is not None
    assert pending is not None
    assert fresh.p_exceeds(1800) < pending.p_exceeds(1800)
    assert pending.p_exceeds(1600) == 1.0


def test_in_a_partition_that_starts_no_jobs_no_end_of_the_wait_is_in_sight(path: Path) -> None:
    lived = _forecast(path)
    down = partition(is_up=False, starts_jobs=False)
    for model in (lived.model_of(snapshot(partitions=(down,))), _learned(lived, down)):
        for wait in (model.predict(_SHORT), model.pending(job(1), "batch")):
            assert wait is not None
            assert wait.p_exceeds(1e9) == 1.0


def _learned(lived: Forecast, *partitions: Partition) -> LearnedModel:
    _live(lived, days=20)
    model = lived.model_of(replace(_at(20 * 24 * _HOUR_S), partitions={each.name: each for each in partitions}))
    assert isinstance(model, LearnedModel)
    return model


def test_who_submits_while_the_model_is_busy_goes_without(path: Path) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    model = lived.model_of(_at(20 * 24 * _HOUR_S))
    with lived._turns:  # noqa: SLF001 - as somebody who tells it of an event that takes too long has it
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.append(model.predict(_ASKED)))
        asking.start()
        asking.join(timeout=10)
    assert answers == [None]
    assert model.predict(_ASKED) is not None


def test_who_submits_or_looks_at_pending_jobs_while_the_model_is_saved_or_fitted_is_answered(path: Path) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    model = lived.model_of(_at(20 * 24 * _HOUR_S))
    with lived._keeping:  # noqa: SLF001 - as whoever saves it has it
        answers: list[object] = []
        asking = threading.Thread(
            target=lambda: answers.extend((model.predict(_ASKED), model.pending(job(1), "batch"))), daemon=True
        )
        asking.start()
        asking.join(timeout=10)
    assert len(answers) == 2
    assert None not in answers


def test_a_long_queue_is_not_asked_about_again_at_once_but_after_a_while(path: Path) -> None:
    now_s = float(NOW_S + _LATER_S)
    lived = Forecast(path, {"overspill"}, 40, clock=lambda: now_s)
    _live(lived, days=20)
    queue = [job(999 + number, cpus=4, time_limit_s=60 * number) for number in range(1, 2001)]

    def outlooks(after_s: int) -> list[Outlook]:
        nonlocal now_s
        now_s += after_s
        model = lived.model_of(_at(20 * 24 * _HOUR_S + after_s, *queue))
        waits = [model.pending(waiting, "batch") for waiting in queue]
        return [wait.outlook for wait in waits if isinstance(wait, LearnedWait)]

    first, soon, later = outlooks(0), outlooks(5), outlooks(30)
    assert len(first) == len(soon) == len(later) == 2000
    assert all(again.exceeds is before.exceeds for before, again in zip(first, soon, strict=True))
    assert all(again.waited_s == before.waited_s + 5 for before, again in zip(first, soon, strict=True))
    assert not any(again.exceeds is before.exceeds for before, again in zip(first, later, strict=True))


def test_a_short_queue_is_asked_about_at_each_snapshot_and_who_is_gone_is_forgotten(path: Path) -> None:
    now_s = float(NOW_S + _LATER_S)
    lived = Forecast(path, {"overspill"}, 40, clock=lambda: now_s)
    _live(lived, days=20)
    at_s, waiting = 20 * 24 * _HOUR_S, job(999, cpus=4)
    first = lived.model_of(_at(at_s, waiting)).pending(waiting, "batch")
    now_s += 5
    second = lived.model_of(_at(at_s + 5, waiting)).pending(waiting, "batch")
    assert isinstance(first, LearnedWait)
    assert isinstance(second, LearnedWait)
    assert second.outlook.exceeds is not first.outlook.exceeds
    lived.model_of(_at(at_s + 10))
    assert not lived._said  # noqa: SLF001 - what is kept is to be bounded


def test_what_a_look_that_outlasts_a_snapshot_is_told_counts_for_the_next_one(path: Path) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    at_s, waiting = 20 * 24 * _HOUR_S, job(999, cpus=4)
    before = lived.model_of(_at(at_s, waiting))
    after = lived.model_of(_at(at_s + 5, waiting))
    told, again = before.pending(waiting, "batch"), after.pending(waiting, "batch")
    assert isinstance(told, LearnedWait)
    assert isinstance(again, LearnedWait)
    assert again.outlook.exceeds is told.outlook.exceeds


def test_who_is_gone_is_forgotten_while_others_are_asked_about(path: Path) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    model = lived.model_of(_at(20 * 24 * _HOUR_S))
    answer = model.pending(job(1), "batch")
    assert isinstance(answer, LearnedWait)
    queue = [job(number) for number in range(2000)]
    shape = lived._following.shape_of(queue[0], "batch", NOW_S)  # noqa: SLF001 - as above
    said: Said = {(each.slurm_job_id, "batch"): (NOW_S, shape, answer.outlook) for each in queue}
    is_over = threading.Event()

    def go_on() -> None:
        for number in itertools.count(len(queue)):
            if is_over.wait(0.00001):
                return
            said[number, "batch"] = NOW_S, shape, answer.outlook

    going_on = threading.Thread(target=go_on)
    going_on.start()
    try:
        for _ in range(200):
            forget_all_but(queue[1:], said)
    finally:
        is_over.set()
        going_on.join()
    assert (0, "batch") not in said
    assert (1, "batch") in said


@pytest.mark.parametrize(
    ("change", "is_news"),
    [
        ({"time_limit_s": 60}, True),
        ({"cpus": 2}, True),
        ({"qos": "urgent"}, True),
        ({"account": "physics"}, True),
        ({"priority": 500_000}, True),
        ({"priority": 1_000_900}, False),
        ({}, False),
    ],
)
def test_a_pending_job_that_was_changed_is_asked_about_anew(
    path: Path, change: dict[str, Any], *, is_news: bool
) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    waiting = job(999, cpus=4)
    model = lived.model_of(_at(20 * 24 * _HOUR_S, waiting))
    before, after = model.pending(waiting, "batch"), model.pending(replace(waiting, **change), "batch")
    assert isinstance(before, LearnedWait)
    assert isinstance(after, LearnedWait)
    assert (after.outlook.exceeds is not before.outlook.exceeds) is is_news


def test_a_priority_that_grows_by_age_is_no_change_of_a_job(path: Path) -> None:
    lived = _forecast(path)
    seen = _at(0)
    lived.model_of(replace(seen, config=replace(seen.config, priority_weight_age=100_000, priority_max_age_s=100_000)))
    waiting = job(1, submit_time_s=NOW_S, eligible_time_s=NOW_S, priority=1000)
    shape_of = lived._following.shape_of  # noqa: SLF001 - as above
    before, later_s = shape_of(waiting, "batch", NOW_S), NOW_S + 5000
    assert shape_of(replace(waiting, priority=1000 + 5000), "batch", later_s) == before
    assert shape_of(replace(waiting, priority=2000 + 5000), "batch", later_s) != before


def test_what_was_submitted_of_late_is_answered_before_it_is_asked(path: Path) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    at_s = 20 * 24 * _HOUR_S
    before = lived.model_of(_at(at_s)).predict(_ASKED)
    assert before is not None
    model = lived.model_of(_at(at_s + 5))
    with lived._turns:  # noqa: SLF001 - whoever has to ask the model itself goes without
        assert model.predict(_ASKED) is not None
        assert model.predict(_SHORT) is None


def test_answers_that_there_is_no_time_for_are_not_ready_and_are_another_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    at_s = 20 * 24 * _HOUR_S
    assert lived.model_of(_at(at_s)).predict(_ASKED) is not None
    are_ready = []
    for after_s, time_s in ((5, 0.0), (10, 60.0)):
        monkeypatch.setattr(learned, "_PREPARING_S", time_s)
        model = lived.model_of(_at(at_s + after_s))
        with lived._turns:  # noqa: SLF001 - as above
            are_ready.append(model.predict(_ASKED) is not None)
    assert are_ready == [False, True]


def test_of_what_was_submitted_a_few_are_remembered_and_before_all_what_came_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    monkeypatch.setattr(learned, "_PREPARING_S", 60.0)
    model = lived.model_of(_at(20 * 24 * _HOUR_S))
    kinds = [QueuedJob("batch", cpus, _HOUR_S, user_id=2001) for cpus in range(1, 400)]
    for kind in (kinds[7], *kinds):
        model.predict(kind)
    model = lived.model_of(_at(20 * 24 * _HOUR_S + 5))
    with lived._turns:  # noqa: SLF001 - as above
        known = [kind for kind in kinds if model.predict(kind) is not None]
    assert len(known) == 128
    assert kinds[7] in known


def test_a_model_that_breaks_costs_no_picture_of_the_cluster(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lived = _forecast(path)
    _live(lived, days=20)
    broken = lived._following  # noqa: SLF001 - the defect cannot be ordered from outside
    monkeypatch.setattr(broken, "take", Mock(side_effect=KeyError("gone")))
    assert isinstance(lived.model_of(_at(20 * 24 * _HOUR_S)), PlanModel)
    assert lived.jobs == 0
    lived.model_of(_at(20 * 24 * _HOUR_S + 5, job(1)))
    assert lived._following is not broken  # noqa: SLF001


def test_whatever_goes_wrong_in_looking_after_the_model_the_service_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_TICK_S", 0.01)
    again, tries = asyncio.Event(), 0

    async def no_space_left(_: object) -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            again.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(forecast, "fit_apart", no_space_left)
    monkeypatch.setattr(trees, "are_available", lambda: True)
    lived = _forecast(path)
    monkeypatch.setattr(OnlineModel, "wants_trees", lambda _: True)

    async def until_tried_twice() -> None:
        task = asyncio.create_task(lived.run())
        async with asyncio.timeout(10):
            await again.wait()
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(until_tried_twice())


def test_trees_that_are_taken_over_while_the_model_is_busy_hold_nobody_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_fitted, goes_on = threading.Event(), threading.Event()

    async def fitted(_: object) -> None:
        is_fitted.set()
        asyncio.get_running_loop().call_later(0.01, goes_on.set)

    monkeypatch.setattr(forecast, "fit_apart", fitted)
    monkeypatch.setattr(trees, "are_available", lambda: True)
    monkeypatch.setattr(OnlineModel, "wants_trees", lambda _: True)
    monkeypatch.setattr(OnlineModel, "take_trees", lambda *_: None)
    lived = _forecast(path)
    looking_after = threading.Thread(target=lambda: asyncio.run(lived._fit_trees()))  # noqa: SLF001 - one of its steps
    with lived._turns:  # noqa: SLF001 - as whoever asks has it
        looking_after.start()
        assert is_fitted.wait(10)
        assert goes_on.wait(10)
    looking_after.join(10)
    assert not looking_after.is_alive()


def test_a_file_that_cannot_be_written_costs_what_was_learned_and_nothing_else(tmp_path: Path) -> None:
    lived = _forecast(tmp_path / "absent" / "waits.state")
    _live(lived, days=1)
    asyncio.run(_run_and_stop(lived))


async def _run_and_stop(lived: Forecast) -> None:
    task = asyncio.create_task(lived.run())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


_PAST = "41|1000|1000|1600|2600|2|2|64|64|30|alice|physics|{partition}|normal|4294901700"


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have `sacct` print three jobs, of which one was diverted and one may still be."""
    program = tmp_path / "bin" / "sacct"
    program.parent.mkdir()
    partitions = ("batch", "overspill", "batch,overspill")
    lines = ["|".join(SACCT_FIELDS), *(_PAST.format(partition=name) for name in partitions)]
    program.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def test_a_model_is_made_of_what_sacct_remembers_but_for_diverted_jobs(sacct: Path, path: Path) -> None:
    ran = CliRunner().invoke(main, ["learn", "--not-from", "overspill", "--output", str(path)])
    assert (ran.exit_code, ran.stderr) == (0, "learned from 1 jobs\n"), sacct
    model, reason = load(path, 1)
    assert (model.samples.taken, reason) == (1, "")


def test_a_router_that_knows_nothing_lives_through_the_past(
    sacct: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_TICK_S", 0.01)
    young, seen = _forecast(path), _at(0)
    seen = replace(seen, config=replace(seen.config, has_slurmdbd=True))

    async def until_grown() -> None:
        task = asyncio.create_task(young.run())
        async with asyncio.timeout(60):
            while not young.jobs:
                await asyncio.sleep(0.05)
                await asyncio.to_thread(young.model_of, seen)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(until_grown())
    assert young.jobs == 1, sacct
    assert load(path, 1)[0].samples.taken == 1


def test_a_router_that_was_stopped_before_it_lived_through_the_past_does_so_later(
    sacct: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_run_and_stop(_forecast(path)))
    assert path.exists()
    test_a_router_that_knows_nothing_lives_through_the_past(sacct, path, monkeypatch)


def test_a_past_that_takes_too_long_is_no_failure_of_slurms(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_TICK_S", 0.01)
    monkeypatch.setattr(forecast, "_LEARN_DEADLINE_S", 0.01)
    young, seen = _forecast(path), _at(0)
    young.model_of(replace(seen, config=replace(seen.config, has_slurmdbd=True)))
    with structlog.testing.capture_logs() as logs:

        async def until_told() -> None:
            task = asyncio.create_task(young.run())
            await eventually_async(is_told, "told", 60)
            task.cancel()
            await asyncio.wait([task])

        async def is_told() -> bool:
            return bool(logs)

        asyncio.run(until_told())
    assert (logs[0]["action"], logs[0]["reason"]) == ("wait_model_past", "nice gave no answer within 0.01 s")
    assert REGISTRY.get_sample_value("overspill_slurm_query_failures_total", {"command": "nice"}) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [("exit 3", "sacct ended with exit code 3"), ("echo nonsense", "sacct's text lacks")],
)
def test_a_sacct_that_fails_is_told(sacct: Path, path: Path, text: str, said: str) -> None:
    header = "" if text.startswith("echo") else "echo '" + "|".join(SACCT_FIELDS) + "'; "
    sacct.write_text(f"#!/bin/sh\n{header}{text}\n")
    ran = CliRunner().invoke(main, ["learn", "--output", str(path)])
    assert ran.exit_code == 1
    assert said in ran.stderr
    assert not path.exists()


def test_a_host_without_sacct_is_told(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = CliRunner().invoke(main, ["learn", "--output", str(path)])
    assert (ran.exit_code, ran.stderr) == (1, "Error: sacct: No such file or directory\n")
