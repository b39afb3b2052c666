"""Slurm's notations for times, sizes, host lists and arrays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.slurm_text import (
    count_array_tasks,
    expand_hosts,
    last_array_tasks,
    names_host,
    parse_duration_s,
    parse_size_mib,
    parse_time_limit_s,
    parse_tres,
)

_DAY_S = 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("1:30", 90),
        ("00:30:00", 1800),
        ("1-0", _DAY_S),
        ("2-3", 2 * _DAY_S + 3 * 3600),
        ("2-3:4", 2 * _DAY_S + 3 * 3600 + 240),
        ("1-02:03:04", _DAY_S + 2 * 3600 + 184),
        ("0", 0),
    ],
)
def test_every_form_of_a_time_is_read_as_slurm_reads_it(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1-", "1.5", "1 - 2", "٣", "UNLIMITED", "1-2-3"])
def test_what_is_no_time_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write minutes"):
        parse_duration_s(text)


@given(st.integers(0, 999), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_time_that_slurm_prints_is_read_back(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = days * _DAY_S + hours * 3600 + minutes * 60 + seconds
    assert parse_duration_s(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    assert parse_duration_s(f"{days * 24 + hours:02}:{minutes:02}:{seconds:02}") == total


@pytest.mark.parametrize("text", ["UNLIMITED", "NONE", "NOT_SET", "Partition_Limit", "infinite", "INVALID"])
def test_no_time_limit_has_many_names(text: str) -> None:
    assert parse_time_limit_s(text) is None


@given(st.text())
def test_no_text_makes_the_time_parser_fail_in_another_way(text: str) -> None:
    try:
        assert parse_duration_s(text) >= 0
    except ValueError:
        return


@pytest.mark.parametrize(
    ("text", "mib"), [("200M", 200), ("16G", 16384), ("1.50T", 1572864), ("1K", 1), ("0", 0), ("1025K", 2)]
)
def test_a_size_is_read_in_mib_rounded_up(text: str, mib: int) -> None:
    assert parse_size_mib(text) == mib


def test_a_size_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size_mib("lots")


def test_tres_text_is_read_whatever_stands_in_it() -> None:
    assert parse_tres("cpu=2,mem=200M,gres/gpu=1,oddity") == {"cpu": "2", "mem": "200M", "gres/gpu": "1"}


@pytest.mark.parametrize(
    ("expression", "count"),
    [("1-5", 5), ("1-10:2", 5), ("1,3,7-8", 4), ("0-99%10", 10), ("[3-4%2]", 2), ("7", 1), ("1-4%0", 4)],
)
def test_an_array_counts_what_may_run_at_once(expression: str, count: int) -> None:
    assert count_array_tasks(expression) == count


@pytest.mark.parametrize(
    ("expression", "most", "last"),
    [
        ("1-5", 2, [5, 4]),
        ("1-10:3", 9, [10, 7, 4, 1]),
        ("1,3,7-8", 3, [8, 7, 3]),
        ("[4]", 1, [4]),
        ("1-999999999", 1, [999999999]),
    ],
)
def test_the_last_tasks_of_an_array_are_told_the_highest_first(expression: str, most: int, last: list[int]) -> None:
    assert last_array_tasks(expression, most) == last


@pytest.mark.parametrize("expression", ["", "a", "1-", "..."])
def test_the_last_tasks_of_no_array_are_none(expression: str) -> None:
    with pytest.raises(ValueError, match="no list of array tasks"):
        last_array_tasks(expression, 1)


@pytest.mark.parametrize("expression", ["", "a", "1-", "1,,2", "..."])
def test_an_array_that_is_none_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="no list of array tasks"):
        count_array_tasks(expression)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("", ()),
        ("c1", ("c1",)),
        ("c[1-3]", ("c1", "c2", "c3")),
        ("c[01-02,10],ovs1", ("c01", "c02", "c10", "ovs1")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
    ],
)
def test_a_host_list_is_expanded_as_slurm_expands_it(expression: str, names: tuple[str, ...]) -> None:
    assert expand_hosts(expression) == names


@pytest.mark.parametrize("expression", ["c[1-3", "c]1[", "c[a-b]", "c[1-999999999]", "c[-]"])
def test_a_host_list_that_is_none_or_endless_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="host"):
        expand_hosts(expression)


@pytest.mark.parametrize("host", ["c1", "c01", "c10", "c010", "r1n2", "r01n2", "ovs1", "c", "1", ""])
@pytest.mark.parametrize("expression", ["", "c1", "c[1-10]", "c[01-10]", "c0[1-10]", "r[0-1]n[1-2],ovs1", "c[1,3-7]"])
def test_a_host_list_names_what_it_expands_to(expression: str, host: str) -> None:
    assert names_host(expression, host) == (host in expand_hosts(expression))


@pytest.mark.parametrize("expression", ["c[1-999999999],d[1-999999999]", "c[000000000000000001-999999999999999999]"])
def test_a_host_list_of_any_size_is_searched_at_once(expression: str) -> None:
    assert not names_host(expression, "ovs1")


@pytest.mark.parametrize("expression", ["c[1-3", "c]1[", "c[a-b]", "c[-]", "c1," * 5000])
def test_a_host_list_that_is_none_or_too_long_is_not_searched(expression: str) -> None:
    with pytest.raises(ValueError, match=r"host list|list of numbers"):
        names_host(expression, "c1")


@given(st.text(alphabet="c[]0123456789-,", max_size=12))
def test_no_text_makes_the_host_parser_fail_in_another_way(text: str) -> None:
    try:
        expand_hosts(text)
    except ValueError:
        return
