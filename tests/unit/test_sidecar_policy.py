"""The admin's words in slurm.conf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.policy import (
    WORDS,
    Choice,
    Mode,
    Policy,
    parse_policy,
    unknown_accounts,
    unknown_partitions,
    unknown_users,
    with_last_good,
)


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
    assert policy.to_partitions() == ("ovs-a", "ovs-b")


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
        ("overspill_wayt=5", f"no such word: there are {', '.join(word.name for word in WORDS.values())}"),
        ("overspill_wait=-5", "'-5' is negative: write 0 or a longer time"),
        ("overspill_max_time=-1-0", "'-1-0' is negative: write 0 or a longer time"),
        ("overspill_max_time=1-999999999", "'1-999999999' is longer than any time limit of Slurm"),
        ("overspill_max_jobs=many", "'many' is no count: write a whole number from 0 to 1000000000"),
        ("overspill_max_jobs=-1", "'-1' is no count: write a whole number from 0 to 1000000000"),
        ("overspill_max_jobs=9999999999", "'9999999999' is no count: write a whole number from 0 to 1000000000"),
        ("overspill_max_nodes=0", "no job has 0 nodes: write 1 or more, or overspill_mode=off"),
        ("overspill_choose=cheapest", "'cheapest' is no way to choose: write best or order"),
        ("overspill_explore=3%", "'3%' is no share: write a number from 0 to 1, as 0.03"),
        ("overspill_explore=1.1", "'1.1' is no share: write a number from 0 to 1, as 0.03"),
        ("overspill_explore=nan", "'nan' is no share: write a number from 0 to 1, as 0.03"),
        ("overspill_max_cpu_hours@a b=1", "'a b' is no account"),
        ("overspill_max_cpu_hours=0.5", "'0.5' is no count: write a whole number from 0 to 1000000000"),
        ("overspill_wait@a b=1", "'a b' is no partition"),
        ("overspill_notify=perhaps", "'perhaps' is neither: write on or off"),
        ("overspill_allow_users=ann+", "'ann+' is no list of users: write names joined by +"),
        ("overspill_from@long=batch", "takes no @partition"),
        ("overspill_mode@long=on", "takes no @partition"),
        ("overspill_from=a++b", "'a++b' is no list of partitions: write names joined by +"),
    ],
)
def test_a_wrong_word_is_reported_with_what_to_write(word: str, complaint: str) -> None:
    assert _problems(f"overspill_from=batch,{word}") == [f"{word}: {complaint}"]


@pytest.mark.parametrize("key", WORDS)
def test_every_example_is_right(key: str) -> None:
    assert WORDS[key].name in WORDS[key].example
    policy, problems = parse_policy([f"{WORDS[key].example},overspill_from=batch+long"])
    assert key in {each.key for each in policy.words}
    assert problems == ()


def test_every_word_says_what_it_means() -> None:
    policy = _policy(
        "overspill_from=batch+long,overspill_to=ovs-a,overspill_to@long=ovs-b,overspill_max_jobs=9,"
        "overspill_max_jobs@ovs-a=3,overspill_max_nodes@long=4,overspill_max_time=1-0,overspill_notify@long=on,"
        "overspill_allow_users=ann,overspill_deny_users@long=bob,overspill_deny_accounts=meg,overspill_allow_features=avx"
    )
    assert (policy.to_partitions("batch"), policy.to_partitions("long")) == (("ovs-a",), ("ovs-b",))
    assert (policy.max_jobs(), policy.max_jobs("ovs-a"), policy.max_jobs("ovs-b")) == (9, 3, None)
    assert (policy.max_nodes("batch"), policy.max_nodes("long")) == (1, 4)
    assert policy.max_time_s("long") == 86400
    assert (policy.is_notifying("batch"), policy.is_notifying("long")) == (False, True)
    assert policy.user_names == {"ann", "bob"}
    assert policy.maps_feature("avx", "batch")
    assert not policy.maps_feature("ib", "batch")


def test_a_word_for_one_account_takes_the_place_of_the_word_for_each() -> None:
    policy = _policy("overspill_max_jobs_per_account=5,overspill_max_cpu_hours=100,overspill_max_cpu_hours@physics=0")
    assert (policy.max_account_jobs("physics"), policy.max_account_jobs("")) == (5, 5)
    assert (policy.max_cpu_hours("physics"), policy.max_cpu_hours("chem"), policy.max_cpu_hours("")) == (0, 100, 100)
    assert policy.has_budgets
    assert not _policy("overspill_max_jobs=5").has_budgets


def test_a_share_stays_to_explore_and_the_best_site_is_chosen_unless_a_word_says_otherwise() -> None:
    policy = _policy("overspill_explore@long=0,overspill_choose@long=order,overspill_gpus@long=0")
    assert [policy.explore(name) for name in ("batch", "long")] == [0.03, 0.0]
    assert [policy.choice(name) for name in ("batch", "long")] == [Choice.BEST, Choice.ORDER]
    assert [policy.max_gpus(name) for name in ("batch", "long")] == [None, 0]


def test_users_are_compared_by_the_ids_they_have() -> None:
    ids = {"ann": 1, "bob": 2}
    policy = _policy("overspill_allow_users=ann+bob+gone,overspill_deny_users=bob,overspill_deny_users@long=ann")
    assert [policy.allows_user(user_id, "batch", ids) for user_id in (1, 2, 3)] == [True, False, False]
    assert [policy.allows_user(user_id, "long", ids) for user_id in (1, 2, 3)] == [False, True, False]
    assert _policy("overspill_deny_users=bob").allows_user(3, "batch", ids)


def test_an_account_that_nobody_knows_passes_only_where_no_word_could_keep_it_back() -> None:
    policy = _policy("overspill_deny_accounts@long=meg,overspill_allow_accounts@debug=phys")
    assert [policy.allows_account(name, "long") for name in ("", "meg", "phys")] == [False, False, True]
    assert [policy.allows_account(name, "debug") for name in ("", "meg", "phys")] == [False, False, True]
    assert policy.allows_account("", "batch")


def test_features_are_mapped_only_where_a_word_says_so() -> None:
    assert not _policy("overspill_mode=on").maps_feature("avx", "batch")
    assert _policy("overspill_deny_features=ib").maps_feature("avx", "batch")
    assert not _policy("overspill_deny_features=ib").maps_feature("ib", "batch")
    assert not _policy("overspill_deny_features=ib,overspill_allow_features=ib").maps_feature("ib", "batch")


def test_partitions_that_the_cluster_does_not_have_are_named() -> None:
    policy = _policy("overspill_from=batch+lnog,overspill_to=ovs-x,overspill_wait@lnog=5,overspill_max_jobs@ovs=1")
    advice = "correct the word, or add the partition to slurm.conf"
    assert [str(problem) for problem in unknown_partitions(policy, {"batch", "long", "ovs-a"})] == [
        f"overspill_from: slurmctld knows no partition lnog: {advice}",
        f"overspill_to: slurmctld knows no partition ovs-x: {advice}",
        f"overspill_wait@lnog: slurmctld knows no partition lnog: {advice}",
        f"overspill_max_jobs@ovs: slurmctld knows no partition ovs: {advice}",
    ]
    assert unknown_partitions(policy, {"batch", "lnog", "ovs-x", "ovs"}) == ()


def test_accounts_that_slurm_does_not_have_are_named_and_are_no_partitions() -> None:
    policy = _policy("overspill_from=batch,overspill_max_cpu_hours@phsyics=5,overspill_deny_accounts=meg+chem")
    advice = "correct the word, or see sacctmgr show account"
    assert [str(problem) for problem in unknown_accounts(policy, {"physics", "chem"})] == [
        f"overspill_max_cpu_hours@phsyics: Slurm's accounting knows no account phsyics: {advice}",
        f"overspill_deny_accounts: Slurm's accounting knows no account meg: {advice}",
    ]
    assert unknown_partitions(policy, {"batch"}) == ()


def test_a_list_with_an_unknown_partition_says_what_it_last_said() -> None:
    partitions = {"batch", "long", "ovs-a"}
    before = _policy("overspill_from=batch,overspill_to=ovs-a,overspill_to@long=gone")
    after = _policy("overspill_from=batch+lnog,overspill_to=ovs-b,overspill_to@long=gone2")
    kept = with_last_good(after, partitions, before)
    assert (kept.from_partitions, kept.to_partitions()) == (("batch",), ("ovs-a",))
    assert kept.to_partitions("long") == ("gone2",)
    assert with_last_good(after, partitions, Policy()).from_partitions == ("batch", "lnog")


def test_users_whom_this_host_does_not_know_are_named() -> None:
    policy = _policy("overspill_allow_users=ann+bbo,overspill_deny_users=eev")
    assert [str(problem) for problem in unknown_users(policy, {"ann", "bob"})] == [
        "overspill_allow_users: this host knows no user bbo: correct the word, or see `getent passwd bbo`",
        (
            "overspill_deny_users: this host knows no user eev, who may be anybody, so the word keeps all jobs here: "
            "correct the word, or see `getent passwd eev`"
        ),
    ]


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
    st.builds("overspill_{}={}".format, st.sampled_from([*WORDS, "wait@p", "max_jobs@p", "notify@p"]), _anything),
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
