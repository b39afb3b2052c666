"""What one cluster may have of a site, and what two of them are promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import ConfigError, ExhaustedError, UnrunnableError
from overspill.request_id import RequestId
from overspill.v1 import agent_pb2 as pb
from overspill_agent.capacity import Capacity, Holding, Slot, has_room, left
from overspill_agent.config import ClusterSection, parse
from overspill_agent.limits import most_of, why_beyond, within
from overspill_agent.runs import Resources, Run
from overspill_agent.service.admission import check_room, check_size, check_spec_size
from tests.unit.test_agent_config import GOOD

TOTAL = Resources(cpus=32, memory_mib=64_000, gpus=3)
FREE = ClusterSection()
HALF = ClusterSection(share=0.5)


def _slot(name: str, cpus: int, usable: int | None = None) -> Slot:
    left_cpus = cpus if usable is None else usable
    return Slot(name, Resources(cpus, cpus * 1000), Resources(left_cpus, left_cpus * 1000))


def _run(number: int, cpus: int, slurm_cluster: str = "rig", machine: str = "") -> Run:
    return Run(
        run_id=f"r{slurm_cluster}{number}",
        request_id=RequestId(slurm_cluster, number, None, 1_790_000_000, 0),
        account="alice",
        resources=Resources(cpus, cpus * 1000),
        has_stdin=False,
        accepted_at_ms=0,
        state_at_ms=0,
        machine=machine,
    )


SITE = Capacity((_slot("a", 4), _slot("b", 16)))


def test_a_share_is_rounded_down_and_a_number_counts_where_it_is_less() -> None:
    assert most_of(HALF, TOTAL) == Resources(16, 32_000, 1)
    assert most_of(ClusterSection(share=0.5, max_cpus=20, max_gpus=0), TOTAL) == Resources(16, 32_000, 0)
    assert most_of(FREE, TOTAL) == TOTAL


def test_a_cluster_at_its_limit_is_told_which() -> None:
    taken = [Resources(cpus=8), Resources(cpus=8)]
    assert why_beyond(HALF, TOTAL, taken, Resources(cpus=1)) == (
        "the cluster's runs would have 17 CPUs, 0 MiB and 0 GPUs here, and may have 16, 32000 MiB and 1"
    )
    assert why_beyond(HALF, TOTAL, taken[:1], Resources(cpus=8)) == ""
    two = ClusterSection(max_runs=2)
    assert why_beyond(two, TOTAL, taken, Resources()) == "the cluster has 2 unfinished runs here, and may have 2"


def test_a_cluster_is_told_of_no_more_than_its_limits() -> None:
    slots = [_slot("a", 4), _slot("b", 16), _slot("c", 16, usable=12)]
    told = within(ClusterSection(max_cpus=20), Resources(36, 36_000), [Resources(2, 2000)], slots)
    assert [(slot.name, slot.size.cpus, slot.usable.cpus) for slot in told] == [
        ("b", 16, 16),
        ("c", 16, 2),
        ("a", 4, 0),
    ]
    told = within(ClusterSection(max_cpus=8), Resources(36, 36_000), [], slots)
    assert [(slot.size.cpus, slot.usable.cpus) for slot in told] == [(8, 8), (8, 0), (4, 0)]


def test_a_cluster_with_as_many_runs_as_it_may_have_is_told_that_nothing_is_free() -> None:
    told = within(ClusterSection(max_runs=1), Resources(20, 20_000), [Resources(1, 1)], SITE.slots)
    assert sum((slot.usable for slot in told), Resources()) == Resources()


def test_a_run_beyond_its_clusters_limit_waits_and_another_clusters_does_not() -> None:
    unfinished = [_run(1, 8)]
    with pytest.raises(ExhaustedError, match="would have 11 CPUs"):
        check_room(_run(2, 3), unfinished, HALF, SITE)
    check_room(_run(2, 3, "other"), unfinished, HALF, SITE)


def test_a_run_that_is_larger_than_its_cluster_may_ever_have_is_refused_for_good() -> None:
    with pytest.raises(UnrunnableError, match="would have 11 CPUs"):
        check_size(Holding(Resources(11, 1)), SITE, HALF)
    check_size(Holding(Resources(10, 1)), SITE, HALF)


def test_a_run_for_which_every_slot_is_promised_to_others_is_taken_and_waits() -> None:
    check_room(_run(2, 5), [_run(1, 16, "other"), _run(3, 4)], FREE, SITE)


def test_a_repeated_request_has_its_room_already() -> None:
    check_room(_run(1, 16), [_run(1, 16)], ClusterSection(max_runs=1), SITE)


def test_a_spec_beyond_its_limit_is_refused() -> None:
    with pytest.raises(UnrunnableError, match="this site takes 1 KiB"):
        check_spec_size(pb.RunSpec(script=b"x" * 1024), ClusterSection(max_spec_kib=1))
    check_spec_size(pb.RunSpec(script=b"x" * 1000), ClusterSection(max_spec_kib=1))


def test_limits_of_a_cluster_that_nobody_of_may_come_are_told() -> None:
    assert parse(GOOD + "[clusters.rig]\nshare = 0.25\n", "agent.toml").clusters["rig"].share == 0.25
    with pytest.raises(ConfigError, match="limits rog, to which no"):
        parse(GOOD + "[clusters.rog]\nmax_runs = 1\n", "agent.toml")
    with pytest.raises(ConfigError, match=r"\[clusters.rig\] share: Input should be less than or equal to 1"):
        parse(GOOD + "[clusters.rig]\nshare = 50\n", "agent.toml")


@given(st.lists(st.integers(1, 16), min_size=1, max_size=6), st.lists(st.integers(1, 16), max_size=30))
def test_clusters_that_ask_one_after_the_other_are_never_promised_the_same_slot(
    sizes: list[int], asked: list[int]
) -> None:
    capacity = Capacity(tuple(_slot(f"s{number}", cpus) for number, cpus in enumerate(sizes)))
    promised: list[Holding] = []
    for cpus in asked:
        wanted = Holding(Resources(cpus, cpus * 1000))
        if has_room(left(capacity, promised), wanted):
            promised.append(wanted)
    free = sum((slot.usable for slot in left(capacity, promised)), Resources())
    had = sum((holding.resources for holding in promised), Resources())
    assert had + free == capacity.total
