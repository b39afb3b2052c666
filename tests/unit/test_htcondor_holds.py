"""Each of HTCondor's hold codes as an outcome and a sentence for the job's user."""

from __future__ import annotations

import pytest

from overspill.states import Outcome
from overspill_agent.backends.htcondor.ads import Hold
from overspill_agent.backends.htcondor.holds import BY_HAND, MEANINGS, SPOOLING, verdict_of

#: code, subcode -> outcome of a run whose process was started, and of one whose was not, and words that must be said.
_ROWS = {
    (1, 0): (Outcome.NODE_FAIL, "operator held"),
    (3, 77): (Outcome.NODE_FAIL, "rule of the site"),
    (6, 2): (Outcome.REJECTED, "could not start the job's process"),
    (12, 2): (Outcome.NODE_FAIL, "could not be brought back"),
    (13, 28): (Outcome.REJECTED, "could not be brought to the machine"),
    (14, 0): (Outcome.REJECTED, "directory"),
    (21, 0): (Outcome.NODE_FAIL, "machine's owner"),
    (21, 101): (Outcome.NODE_FAIL, "more CPUs"),
    (21, 102): (Outcome.OUT_OF_MEMORY, "more memory than it had asked for"),
    (21, 104): (Outcome.NODE_FAIL, "more disk"),
    (23, 0): (Outcome.REJECTED, "account"),
    (26, 0): (Outcome.NODE_FAIL, "rule of the site"),
    (34, 0): (Outcome.OUT_OF_MEMORY, "more memory than it had asked for"),
    (35, 0): (Outcome.REJECTED, "image"),
    (45, 0): (Outcome.REJECTED, "container"),
    (46, 0): (Outcome.TIMEOUT, "longer than it allows"),
    (47, 0): (Outcome.TIMEOUT, "longer than its time limit"),
}


@pytest.mark.parametrize(("code", "subcode"), _ROWS, ids=str)
def test_a_held_job_that_had_started_ends_as_its_code_says(code: int, subcode: int) -> None:
    outcome, words = _ROWS[code, subcode]
    verdict = verdict_of(Hold(code, subcode, "what HTCondor said"), is_executing=True)
    assert verdict.outcome is outcome
    assert words in verdict.reason
    assert "(what HTCondor said)" in verdict.reason


@pytest.mark.parametrize("code", sorted(MEANINGS))
def test_a_held_job_that_never_started_goes_home_whatever_the_code(code: int) -> None:
    assert verdict_of(Hold(code), is_executing=False).outcome is Outcome.REJECTED


@pytest.mark.parametrize("code", sorted(MEANINGS))
def test_each_code_is_a_sentence_of_its_own_words(code: int) -> None:
    sentence = verdict_of(Hold(code), is_executing=True).reason
    assert sentence == MEANINGS[code].sentence
    assert sentence[0].islower()
    assert not sentence.endswith(".")


def test_an_unknown_code_fails_the_node_and_is_named() -> None:
    verdict = verdict_of(Hold(4711, 3, "a new reason\nin two lines"), is_executing=True)
    assert verdict.outcome is Outcome.NODE_FAIL
    assert "4711" in verdict.reason
    assert "a new reason in two lines" in verdict.reason


def test_spooling_is_no_reason_at_all() -> None:
    assert SPOOLING not in MEANINGS
    assert SPOOLING not in BY_HAND
