"""One run's life, whatever comes in whatever order: one outcome, never back, and always a way on."""

from collections.abc import Callable
from dataclasses import replace
from signal import Signals

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.request_id import RequestId
from overspill.states import Outcome, RunState, is_allowed
from overspill_agent import runs
from overspill_agent.runs import (
    MAX_TRIES,
    STOP_GRACE_S,
    Action,
    Ending,
    EndReport,
    Resources,
    Run,
    Seen,
    Sight,
    Sighting,
    SignalEffect,
    next_action,
)

NEW = Run(
    run_id="r1",
    request_id=RequestId("rig", 42, None, 1_790_000_000, 0),
    account="alice",
    resources=Resources(cpus=1, memory_mib=100),
    has_stdin=False,
    accepted_at_ms=1,
    state_at_ms=1,
)
QUEUED = runs.attempt_begun(NEW, 2)
RUNNING = runs.script_started(QUEUED, 3)
ENDED = runs.ended(RUNNING, Ending(Outcome.COMPLETED, exit_code=7), 4)

Change = Callable[[Run], Run]
end_reports = st.builds(
    EndReport,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    is_timed_out=st.booleans(),
    is_lease_lost=st.booleans(),
    error=st.sampled_from(["", "exec format error"]),
)
#: Every change that anything in the agent makes to a run.
changes = st.one_of(
    st.builds(lambda at: lambda run: runs.stdin_awaited(run, at), st.integers(1, 9)),
    st.just(runs.stdin_completed),
    st.builds(lambda at: lambda run: runs.attempt_begun(run, at), st.integers(1, 9)),
    st.builds(lambda at: lambda run: runs.script_started(run, at), st.integers(1, 9)),
    st.builds(lambda seq: lambda run: runs.report_applied(run, seq), st.integers(1, 9)),
    st.builds(
        lambda seq, number, is_for_all: lambda run: runs.signal_asked(run, seq, number, is_for_all=is_for_all),
        st.integers(1, 9),
        st.integers(1, 64),
        st.booleans(),
    ),
    st.builds(
        lambda number, is_for_all: lambda run: runs.signal_delivered(run, number, is_for_all=is_for_all, at_ms=5),
        st.integers(1, 64),
        st.booleans(),
    ),
    st.builds(lambda reason: lambda run: runs.stop_wanted(run, reason), st.text(min_size=1, max_size=5)),
    st.builds(lambda report: lambda run: runs.ended(run, runs.ending_of_report(run, report), 8), end_reports),
    st.just(
        lambda run: runs.ended(
            run, runs.ending_without_report(run, Sighting(Seen.GONE), stdout_bytes=0, stderr_bytes=0), 8
        )
    ),
    st.just(runs.cleaned),
    st.just(runs.released),
)
sights = st.builds(
    Sight,
    st.builds(Sighting, st.sampled_from(Seen)),
    has_room=st.booleans(),
    is_reporting=st.booleans(),
    unwanted_s=st.sampled_from([0.0, STOP_GRACE_S]),
)


@given(st.booleans(), st.lists(changes, max_size=30))
def test_whatever_happens_a_run_never_goes_back_and_keeps_its_one_outcome(
    has_stdin: bool,  # noqa: FBT001
    steps: list[Change],
) -> None:
    run = replace(NEW, has_stdin=has_stdin)
    for step in steps:
        following = step(run)
        assert following.state is run.state or is_allowed(run.state, following.state)
        assert (following.ending is not None) == following.has_ended
        assert run.ending is None or following.ending == run.ending
        assert following.attempt >= run.attempt
        assert following.signal_seq >= run.signal_seq
        assert run.stop_reason is None or following.stop_reason == run.stop_reason
        assert following.has_ended or not (following.is_cleaned or following.is_released)
        run = following


@given(st.lists(changes, max_size=20), sights)
def test_a_script_that_has_started_or_lives_is_never_started_again(steps: list[Change], sight: Sight) -> None:
    run = NEW
    for step in steps:
        run = step(run)
    if next_action(run, sight) is Action.START:
        assert run.started_at_ms is None
        assert sight.sighting.seen is Seen.NOTHING
        assert not run.has_ended
        assert not run.is_stop_wanted


@given(st.lists(changes, max_size=20))
def test_a_run_that_is_gone_is_brought_to_its_end_and_cleaned(steps: list[Change]) -> None:
    run = runs.attempt_begun(NEW, 2)
    for step in steps:
        run = step(run)
    for _ in range(3):
        match next_action(run, Sight(Sighting(Seen.GONE))):
            case Action.END:
                run = runs.ended(
                    run, runs.ending_without_report(run, Sighting(Seen.GONE), stdout_bytes=0, stderr_bytes=0), 9
                )
            case Action.CLEAN:
                run = runs.cleaned(run)
            case action:
                assert action is Action.WAIT
    assert run.has_ended
    assert run.is_cleaned


def test_a_run_waits_for_its_input_and_for_room() -> None:
    waiting = runs.stdin_awaited(replace(NEW, has_stdin=True), 2)
    assert waiting.state is RunState.STAGING_IN
    assert next_action(waiting, Sight(Sighting(Seen.NOTHING))) is Action.WAIT
    complete = runs.stdin_completed(waiting)
    assert next_action(complete, Sight(Sighting(Seen.NOTHING), has_room=False)) is Action.WAIT
    assert next_action(complete, Sight(Sighting(Seen.NOTHING))) is Action.START


def test_a_start_that_left_no_trace_is_tried_again_but_not_forever() -> None:
    run = NEW
    for tries in range(MAX_TRIES):
        assert next_action(run, Sight(Sighting(Seen.NOTHING), tries=tries)) is Action.START
        run = runs.attempt_begun(run, 2)
        assert run.attempt == tries + 1
    assert next_action(run, Sight(Sighting(Seen.NOTHING), tries=MAX_TRIES)) is Action.END
    assert (
        runs.ending_without_report(run, Sighting(Seen.NOTHING), stdout_bytes=0, stderr_bytes=0).outcome
        is Outcome.REJECTED
    )


def test_starts_that_a_shortage_prevents_come_later_and_later() -> None:
    assert [runs.pause_after_shortage_s(count) for count in (1, 2, 3, 5, 6, 7, 1000)] == [2, 4, 8, 32, 60, 60, 60]


def test_a_new_attempt_takes_reports_from_the_first_again() -> None:
    assert runs.attempt_begun(runs.report_applied(QUEUED, 1), 5).report_seq == 0


def test_a_runner_that_is_gone_without_a_word_is_a_node_failure() -> None:
    assert next_action(RUNNING, Sight(Sighting(Seen.GONE))) is Action.END
    ending = runs.ending_without_report(RUNNING, Sighting(Seen.GONE), stdout_bytes=10, stderr_bytes=20)
    assert (ending.outcome, ending.stdout_bytes, ending.stderr_bytes) == (Outcome.NODE_FAIL, 10, 20)


def test_what_a_dead_runner_has_still_on_the_wire_is_heard_first() -> None:
    assert next_action(RUNNING, Sight(Sighting(Seen.GONE), is_reporting=True)) is Action.WAIT


def test_a_stop_leaves_the_runner_time_for_the_last_output_then_kills_it() -> None:
    unwanted = runs.stop_wanted(RUNNING, "scancel")
    assert next_action(unwanted, Sight(Sighting(Seen.ALIVE))) is Action.WAIT
    assert next_action(unwanted, Sight(Sighting(Seen.ALIVE), unwanted_s=STOP_GRACE_S)) is Action.STOP
    assert next_action(unwanted, Sight(Sighting(Seen.GONE))) is Action.END
    assert runs.ending_without_report(unwanted, Sighting(Seen.GONE), stdout_bytes=0, stderr_bytes=0) == Ending(
        Outcome.CANCELLED, reason="scancel"
    )


def test_a_stop_before_the_start_ends_the_run_unstarted() -> None:
    unwanted = runs.stop_wanted(NEW, "scancel")
    assert next_action(unwanted, Sight(Sighting(Seen.NOTHING))) is Action.END
    assert (
        runs.ending_without_report(unwanted, Sighting(Seen.NOTHING), stdout_bytes=0, stderr_bytes=0).outcome
        is Outcome.CANCELLED
    )
    assert runs.attempt_begun(unwanted, 5) is unwanted


def test_what_outlives_its_end_is_killed_before_it_is_cleaned() -> None:
    assert next_action(ENDED, Sight(Sighting(Seen.ALIVE))) is Action.WAIT
    assert next_action(ENDED, Sight(Sighting(Seen.ALIVE), unwanted_s=STOP_GRACE_S)) is Action.STOP
    assert next_action(ENDED, Sight(Sighting(Seen.GONE))) is Action.CLEAN
    assert next_action(runs.cleaned(ENDED), Sight(Sighting(Seen.GONE))) is Action.WAIT


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        (EndReport(exit_code=0), Outcome.COMPLETED),
        (EndReport(exit_code=255), Outcome.COMPLETED),
        (EndReport(signal=11), Outcome.SIGNALED),
        (EndReport(signal=9, is_timed_out=True), Outcome.TIMEOUT),
        (EndReport(signal=9, is_lease_lost=True), Outcome.NODE_FAIL),
        (EndReport(error="no such interpreter"), Outcome.REJECTED),
    ],
)
def test_the_runners_last_word_decides_the_outcome(report: EndReport, outcome: Outcome) -> None:
    assert runs.ending_of_report(RUNNING, report).outcome is outcome


def test_a_script_that_ended_by_itself_before_the_stop_reached_it_has_completed() -> None:
    unwanted = runs.stop_wanted(RUNNING, "scancel")
    assert runs.ending_of_report(unwanted, EndReport(exit_code=3)).outcome is Outcome.COMPLETED
    assert runs.ending_of_report(unwanted, EndReport(signal=9)).outcome is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("signal", "effect"),
    [
        (Signals.SIGTERM, SignalEffect.CANCEL),
        (Signals.SIGKILL, SignalEffect.CANCEL),
        (Signals.SIGINT, SignalEffect.CANCEL),
        (Signals.SIGHUP, SignalEffect.CANCEL),
        (Signals.SIGQUIT, SignalEffect.CANCEL),
        (Signals.SIGUSR1, SignalEffect.DELIVER),
        (Signals.SIGSTOP, SignalEffect.DELIVER),
        (Signals.SIGCONT, SignalEffect.DELIVER),
    ],
)
def test_before_the_script_runs_a_signal_that_ends_every_process_cancels_and_any_other_waits(
    signal: Signals, effect: SignalEffect
) -> None:
    assert runs.signal_effect(QUEUED, signal, is_for_all=True) is effect
    assert runs.signal_effect(QUEUED, signal, is_for_all=False) is SignalEffect.DELIVER
    assert runs.signal_effect(RUNNING, signal, is_for_all=True) is SignalEffect.DELIVER
    assert runs.signal_effect(ENDED, signal, is_for_all=True) is SignalEffect.DROP


def test_a_signal_that_comes_again_changes_nothing() -> None:
    once = runs.signal_asked(RUNNING, 2, Signals.SIGUSR1, is_for_all=False)
    assert runs.signal_asked(once, 2, Signals.SIGUSR1, is_for_all=False) is once
    assert runs.signal_asked(once, 1, Signals.SIGTERM, is_for_all=True) is once


def test_stopping_every_process_suspends_and_continuing_them_resumes() -> None:
    suspended = runs.signal_delivered(RUNNING, Signals.SIGSTOP, is_for_all=True, at_ms=5)
    assert suspended.state is RunState.SUSPENDED
    assert runs.signal_delivered(suspended, Signals.SIGCONT, is_for_all=True, at_ms=6).state is RunState.RUNNING
    assert runs.signal_delivered(RUNNING, Signals.SIGSTOP, is_for_all=False, at_ms=5) is RUNNING


def test_resources_never_go_below_zero() -> None:
    assert Resources(1, 1, 0).less(Resources(2, 0, 1)) == Resources(0, 1, 0)
