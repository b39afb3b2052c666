"""--constraint in ClassAd expressions."""

from __future__ import annotations

import pytest

from overspill.errors import UnrunnableError
from overspill_agent.backends.htcondor.features import rank, requirements
from overspill_agent.backends.htcondor.site import Meaning

MEANINGS = {
    "intel": Meaning('CpuVendor == "intel"', "Mips"),
    "ib": Meaning("HasInfiniband"),
    "fast": Meaning(rank="Kflops"),
}
IMAGES = frozenset({"debian13"})


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("", "true"),
        ("intel", '(CpuVendor == "intel")'),
        ("intel&ib", '(CpuVendor == "intel") && (HasInfiniband)'),
        ("intel|ib", '(CpuVendor == "intel") || (HasInfiniband)'),
        ("(intel|ib)&fast", '( (CpuVendor == "intel") || (HasInfiniband) ) && (true)'),
        ("debian13 & ib", "true && (HasInfiniband)"),
    ],
)
def test_words_and_their_signs_become_an_expression(constraint: str, expected: str) -> None:
    assert requirements(constraint, MEANINGS, IMAGES) == expected


def test_a_word_without_a_meaning_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(UnrunnableError, match=r"'amd'; it knows debian13, fast, ib, intel"):
        requirements("intel&amd", MEANINGS, IMAGES)


@pytest.mark.parametrize(
    "constraint", ["[intel|ib]", "intel*2", "intel ib", "intel&", "&intel", "(intel", "intel)", "()", 'a"b']
)
def test_what_has_no_meaning_for_one_machine_is_refused(constraint: str) -> None:
    with pytest.raises(UnrunnableError):
        requirements(constraint, MEANINGS, IMAGES)


def test_words_with_a_rank_give_it_once() -> None:
    assert rank("intel&fast|intel", MEANINGS) == ["Mips", "Kflops"]
