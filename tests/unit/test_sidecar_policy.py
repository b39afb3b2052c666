"""The admin's words in slurm.conf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.policy import Mode, Policy, parse_policy


def _policy(*parameters: str, previous: Policy | None = None) -> Policy:
    return parse_policy(parameters, previous)[0]


def _problems(*parameters: str) -> list[str]:
    return [str(problem) for problem in parse_policy(parameters)[1]]


def test_without_a_word_everything_is_off_and_nothing_is_wrong() -> None:
    policy, problems = parse_policy(["enable_configless,power_save_interval=5", ""])
    assert (policy.mode, problems) == (Mode.OFF, ())


def test_words_are_found_among_slurms_own_in_either_parameter() -> None:
    policy = _policy(
        "enable_configless,overspill_mode=shadow,overspill_wait=00:30:00",
        "bf_interval=5,overspill_wait@long=4:00:00,overspill_from=batch+long,overspill_to=ovs-a+ovs-b",
    )
    assert policy.mode is Mode.SHADOW
    assert (policy.wait_s("batch"), policy.wait_s("long")) == (1800, 4 * 3600)
    assert policy.from_partitions == ("batch", "long")
    assert policy.to_partitions == ("ovs-a", "ovs-b")


def test_any_word_turns_it_on_and_off_turns_it_off() -> None:
    assert _policy("overspill_wait=5,overspill_from=batch").mode is Mode.ON
    assert _policy("overspill_wait=5,overspill_from=batch,overspill_mode=off").mode is Mode.OFF


def test_a_partition_that_nobody_named_is_never_diverted_from_and_the_admin_hears_of_it() -> None:
    assert _policy("overspill_wait=5").from_partitions == ()
    assert _problems("overspill_wait=5") == [
        "overspill_from: is missing, so no job is diverted: name partitions, joined by +"
    ]


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("overspill_mode=maybe", "'maybe' is no mode: write off, shadow, on, always"),
        ("overspill_wait=soon", "'soon' is no time: write minutes, hh:mm:ss or days-hh:mm:ss"),
        ("overspill_wait", "has no value: write =value after it"),
        ("overspill_wait=", "has no value: write =value after it"),
        ("overspill_wayt=5", "no such word: there are overspill_mode, overspill_wait, overspill_from, overspill_to"),
        ("overspill_mode@long=on", "takes no @partition"),
        ("overspill_from=a++b", "'a++b' is no list of partitions: write names joined by +"),
    ],
)
def test_a_wrong_word_is_reported_with_what_to_write(word: str, complaint: str) -> None:
    assert _problems(f"overspill_from=batch,{word}") == [f"{word}: {complaint}"]


def test_a_wrong_word_leaves_what_was_last_right() -> None:
    before = _policy("overspill_mode=on,overspill_from=batch,overspill_wait=10,overspill_wait@long=20")
    after = _policy("overspill_mode=on,overspill_from=batch,overspill_wait=x,overspill_wait@long=y", previous=before)
    assert (after.wait_s("batch"), after.wait_s("long")) == (600, 1200)


def test_a_word_that_is_gone_is_gone() -> None:
    before = _policy("overspill_mode=on,overspill_from=batch,overspill_wait=10")
    assert _policy("overspill_mode=on,overspill_from=batch", previous=before).wait_s("batch") == 1800


def test_a_word_said_twice_and_differently_is_reported() -> None:
    assert _policy("overspill_from=a,overspill_wait=1", "overspill_wait=2").wait_s("a") == 60
    assert _problems("overspill_from=a,overspill_wait=1", "overspill_wait=2") == [
        "overspill_wait=2: said twice, and differently: the first is taken"
    ]
    assert _problems("overspill_from=a,overspill_wait=1", "overspill_wait=1") == []


_anything = st.text(alphabet=st.characters(exclude_characters=",", exclude_categories=["Cs"]), max_size=20)
_words = st.one_of(
    _anything,
    _anything.map("overspill_".__add__),
    st.builds("overspill_{}={}".format, st.sampled_from(["mode", "wait", "from", "to", "wait@p"]), _anything),
)


@given(st.lists(_words, max_size=6), st.lists(_words, max_size=6))
def test_no_text_stops_the_parser_and_every_overspill_word_is_kept_or_reported(one: list[str], two: list[str]) -> None:
    policy, problems = parse_policy([",".join(one), ",".join(two)])
    for word in (word.strip() for word in one + two if word.strip().lower().startswith("overspill_")):
        name = word.partition("=")[0].lower()
        is_kept = any(str(key).lower() == name for key in policy.words)
        assert is_kept or any(problem.word == word for problem in problems)


@given(st.lists(_words, max_size=6))
def test_bad_words_alone_never_divert_anything(words: list[str]) -> None:
    good = _policy("overspill_mode=off")
    policy = _policy(
        ",".join(word for word in words if "mode" not in word.lower()), "overspill_mode=off", previous=good
    )
    assert policy.mode is Mode.OFF
