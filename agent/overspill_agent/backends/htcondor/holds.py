"""What it means that HTCondor holds a job, for the run and in words for its user. Pure.

Source of the codes: https://htcondor.readthedocs.io, "Job ClassAd Attributes", HoldReasonCode.
"""

from __future__ import annotations

from dataclasses import dataclass

from overspill.states import Outcome
from overspill_agent.backends.htcondor.ads import Hold
from overspill_agent.runs import Verdict

#: Somebody holds it by hand and may release it.
BY_HAND = frozenset({1, 15})
#: Its input files are not at the access point yet: no error.
SPOOLING = 16
_BY_MACHINE = 21


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means.

    Attributes:
        sentence: for the user.
        outcome: of a run whose process was started; one whose process was not is REJECTED and goes home.
        is_before_start: the process cannot have been started, whatever the job's ad says.
    """

    sentence: str
    outcome: Outcome = Outcome.NODE_FAIL
    is_before_start: bool = False


_MEMORY = "the job used more memory than it had asked for"
_OPERATOR = "tell the site's operator"

MEANINGS: dict[int, Meaning] = {
    1: Meaning("the site's operator held the job"),
    3: Meaning("a rule of the site for its jobs held the job"),
    4: Meaning(f"the site could not use the job's credential; {_OPERATOR}"),
    5: Meaning(f"a rule of the site for its jobs makes no sense for this one; {_OPERATOR}"),
    6: Meaning("the machine could not start the job's process", is_before_start=True),
    7: Meaning("the machine could not open a file for the job's output"),
    8: Meaning("the machine could not open the job's input", is_before_start=True),
    9: Meaning("the site could not open a file for the job's output"),
    10: Meaning("the site could not open the job's input", is_before_start=True),
    11: Meaning("the machine and the access point could not agree on a file transfer"),
    12: Meaning("what the job left could not be brought back to the access point"),
    13: Meaning("the job's files could not be brought to the machine, whose disk may be full", is_before_start=True),
    14: Meaning("the machine could not make the job's directory", is_before_start=True),
    17: Meaning(f"the access point's parts are of different versions; {_OPERATOR}"),
    18: Meaning("the machine and the access point could not agree on a file transfer"),
    19: Meaning(f"a hook of the machine's failed to prepare the job; {_OPERATOR}", is_before_start=True),
    20: Meaning("the machine was not ready at the job's time", is_before_start=True),
    _BY_MACHINE: Meaning("a rule of the machine's owner held the job"),
    22: Meaning(f"the access point could not write the job's log; {_OPERATOR}", is_before_start=True),
    23: Meaning(f"the access point does not know the job's account; {_OPERATOR}", is_before_start=True),
    24: Meaning(f"the access point has no shadow for such jobs; {_OPERATOR}", is_before_start=True),
    26: Meaning("a rule of the site held the job"),
    27: Meaning(f"a rule of the site makes no sense for this job; {_OPERATOR}"),
    32: Meaning("the job's files are larger than the site takes", is_before_start=True),
    33: Meaning("what the job left is larger than the site takes"),
    34: Meaning(_MEMORY, Outcome.OUT_OF_MEMORY),
    35: Meaning("the machine does not have the job's image or cannot use it", is_before_start=True),
    45: Meaning("the machine cannot run the job's container", is_before_start=True),
    46: Meaning("the job was at the site for longer than it allows", Outcome.TIMEOUT),
    47: Meaning("the job ran for longer than its time limit", Outcome.TIMEOUT),
    48: Meaning(f"a hook of the access point's failed to prepare the job; {_OPERATOR}", is_before_start=True),
}

#: Subcodes of HTCondor's own policies (`use POLICY: HOLD_IF_MEMORY_EXCEEDED`), which machines' owners may turn on.
#: Source: the metaknobs of condor 23.9, `condor_config_val use policy:hold_if_memory_exceeded`.
_OF_MACHINE: dict[int, Meaning] = {
    101: Meaning("the job used more CPUs than it had asked for"),
    102: Meaning(_MEMORY, Outcome.OUT_OF_MEMORY),
    104: Meaning("the job used more disk than it had asked for"),
}


def verdict_of(hold: Hold, *, is_executing: bool) -> Verdict:
    """Return how a run ends whose job is held so.

    Args:
        hold: not one by hand that is still waited for, and not `SPOOLING`.
        is_executing: the job's own process was started.
    """
    meaning = _meaning(hold)
    was_started = is_executing and not meaning.is_before_start
    details = " ".join(hold.reason.split())
    sentence = f"{meaning.sentence} ({details})" if details else meaning.sentence
    return Verdict(meaning.outcome if was_started else Outcome.REJECTED, sentence)


def _meaning(hold: Hold) -> Meaning:
    if hold.code == _BY_MACHINE and hold.subcode in _OF_MACHINE:
        return _OF_MACHINE[hold.subcode]
    unknown = Meaning(f"HTCondor held the job for a reason that this agent does not know, code {hold.code}")
    return MEANINGS.get(hold.code, unknown)
