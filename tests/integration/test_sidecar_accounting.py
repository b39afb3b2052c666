"""Jobs that Slurm would not take, or not start, in the overspill partition: they stay what they were, on a real Slurm.

A job with a list of partitions may be rejected for what one of them refuses: an accepted job must never become a
rejected one, nor one that waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.commands import overspill_json
from tests.e2e.diversion import look_often, wait_until
from tests.rig import ClusterOptions, Rig
from tests.rig.routing import ask_router
from tests.rig.slurm_conf import ACCOUNT

_NOTHING = "#!/bin/sh\n:\n"
_SLEEP = "#!/bin/sh\nexec sleep 3600\n"


def _sacctmgr(rig: Rig, *words: str) -> None:
    rig.cluster.run(["sacctmgr", "--immediate", *words], cwd="/", check=True)


@pytest.fixture(name="full_rig", scope="module")
def _full_rig() -> Iterator[Rig]:
    """A rig with accounting whose `batch` is full, and one QOS that takes jobs of one CPU only."""
    cluster = ClusterOptions(accounting="associations,limits,qos")
    with Rig.up(cluster=cluster) as rig:
        _sacctmgr(rig, "add", "qos", "small", "MaxTRESPerJob=cpu=1", "Flags=DenyOnLimit")
        _sacctmgr(rig, "modify", "user", "alice", "set", "qos+=small")
        look_often(rig)
        for _ in range(cluster.real_nodes):
            filler = rig.sbatch(_SLEEP, "--nodes=1", "--ntasks=2", "--time=1:00:00", "--overspill=never", user="bob")
            rig.wait_for_state(filler, "RUNNING")
        yield rig


@pytest.fixture(name="rig", params=["NO", "ANY", "ALL"])
def _rig(full_rig: Rig, request: pytest.FixtureRequest) -> Rig:
    """The full rig with each EnforcePartLimits, and its overspill partition as slurm.conf has it."""
    full_rig.set_slurm_conf(f"EnforcePartLimits={request.param}")
    _wait_for_answer(full_rig, "wait_above_threshold")
    return full_rig


def _wait_for_answer(rig: Rig, reason: str, *options: str) -> None:
    """Wait until the router sees what was changed: it would decide so about a job of these options by alice."""

    def answered() -> object:
        answer = ask_router(rig, *options, user="alice")
        return answer and answer["reason"]

    seen: list[object] = []

    def is_so() -> bool:
        seen.append(answered())
        return seen[-1] == reason

    wait_until(is_so, timeout_s=30, what=f"the answer {reason}; the last one was {seen[-1:]}")


def _partition_of(rig: Rig, *options: str, user: str = "alice") -> str:
    """Return the partitions that a job of these options was accepted with, or runs in; the job is gone then."""
    job_id = rig.sbatch(_NOTHING, *options, user=user)
    partition = rig.job(job_id)["Partition"]
    rig.cluster.run(["scancel", str(job_id)], check=True)
    return partition


def _is_diverted(rig: Rig) -> bool:
    # Slurm sorts the list as it likes, and may have started the job.
    return "overspill" in _partition_of(rig).split(",")


#: What the overspill partition is made to say, what the router calls it, and the jobs that it is said of.
_REFUSALS = [
    ("State=DRAIN", "target_down", ()),
    ("State=INACTIVE", "target_down", ()),
    ("State=DOWN", "target_down", ()),
    ("MaxTime=5", "target_time_limit", ("--time=6",)),
    ("MinNodes=2 MaxNodes=4", "target_nodes_limit", ()),
    ("MaxNodes=0", "target_nodes_limit", ()),
    ("MaxCPUsPerNode=1", "target_cpu_limit", ("--ntasks=2",)),
    ("MaxMemPerNode=500", "target_memory_limit", ()),
    ("MaxMemPerCPU=500", "target_memory_limit", ()),
    ("AllowAccounts=other", "target_account", ()),
    (f"DenyAccounts={ACCOUNT}", "target_account", ()),
    ("AllowQos=small", "target_qos", ("--qos=normal",)),
    ("DenyQos=normal", "target_qos", ()),
    ("AllowGroups=bin", "target_groups", ()),
    ("RootOnly=YES", "target_groups", ()),
    ("AllocNodes=c1", "target_restricted", ()),
    ("ReqResv=YES", "target_restricted", ()),
    ("ExclusiveUser=YES", "target_restricted", ()),
    ("OverSubscribe=EXCLUSIVE", "target_restricted", ()),
    ("QoS=small", "limit_reached", ("--ntasks=2",)),
]


@pytest.mark.timeout(300)
def test_what_the_overspill_partition_refuses_stays_what_it_was(rig: Rig) -> None:
    for says, reason, options in _REFUSALS:
        rig.cluster.run(["scontrol", "update", "PartitionName=overspill", *says.split()], check=True)
        _wait_for_answer(rig, reason, *options)
        assert _partition_of(rig, *options) == "batch", says
        rig.cluster.run(["scontrol", "reconfigure"], check=True)
        _wait_for_answer(rig, "wait_above_threshold")
    assert _is_diverted(rig)


def test_a_group_that_the_overspill_partition_lets_in_goes_there(rig: Rig) -> None:
    rig.cluster.run(["scontrol", "update", "PartitionName=overspill", "AllowGroups=hpc"], check=True)
    _wait_for_answer(rig, "target_groups")  # which people who only ask are in is slurmctld's secret
    assert _is_diverted(rig)


def test_geometry_that_a_virtual_node_does_not_have_stays(rig: Rig) -> None:
    for option in ("--mincpus=2", "--cores-per-socket=1", "--sockets-per-node=1", "--threads-per-core=1"):
        assert _partition_of(rig, option) == "batch", option
    for option in ("--ntasks-per-socket=1", "--ntasks-per-core=1", "--switches=1", "--time-min=1"):
        assert _partition_of(rig, option) == "batch", option


@pytest.fixture(name="any_rig")
def _any_rig(full_rig: Rig) -> Rig:
    full_rig.set_slurm_conf()
    _wait_for_answer(full_rig, "wait_above_threshold")
    return full_rig


def test_a_user_whose_association_names_a_partition_keeps_his_job(any_rig: Rig) -> None:
    rig = any_rig
    _sacctmgr(rig, "add", "account", "narrow")
    _sacctmgr(rig, "add", "user", "alice", "account=narrow", "partition=batch")
    _wait_for_answer(rig, "association_of_partition", "--account=narrow")
    assert _partition_of(rig, "--account=narrow", "--partition=batch") == "batch"
    # What Slurm would have said to a list of partitions.
    list_of_two = ["sbatch", "--account=narrow", "--partition=batch,overspill", "--wrap=:"]
    assert "Multiple partition job request not supported" in rig.cluster.run(list_of_two, user="alice").stderr


def test_a_limit_of_the_association_keeps_the_job_where_it_would_wait_anyhow(any_rig: Rig) -> None:
    rig = any_rig
    _sacctmgr(rig, "modify", "user", "alice", "set", "GrpTRES=cpu=0")
    try:
        _wait_for_answer(rig, "limit_reached")
        assert _partition_of(rig) == "batch"
    finally:
        _sacctmgr(rig, "modify", "user", "alice", "set", "GrpTRES=cpu=-1")
    _wait_for_answer(rig, "wait_above_threshold")
    assert _is_diverted(rig)


def test_the_default_account_counts_where_none_is_named(any_rig: Rig) -> None:
    rig = any_rig
    rig.cluster.run(["scontrol", "update", "PartitionName=overspill", f"AllowAccounts={ACCOUNT}"], check=True)
    assert _is_diverted(rig)
    before = rig.options.policy
    for word, reason in (
        (f"overspill_deny_accounts={ACCOUNT}", "policy_account"),
        (f"overspill_max_cpu_hours@{ACCOUNT}=0", "max_cpu_hours"),
    ):
        rig.set_policy(f"{before},{word}")
        _wait_for_answer(rig, reason)
        assert _partition_of(rig) == "batch"
    rig.set_policy(before)


def test_while_the_cluster_is_in_a_federation_its_jobs_stay(any_rig: Rig) -> None:
    _sacctmgr(any_rig, "add", "federation", "union", "clusters=rig")
    _wait_for_answer(any_rig, "federated")
    assert _partition_of(any_rig) == "batch"
    _sacctmgr(any_rig, "delete", "federation", "union")
    _wait_for_answer(any_rig, "wait_above_threshold")


def test_what_sacct_tells_of_these_jobs_can_be_replayed_under_a_policy(any_rig: Rig) -> None:
    cancelled = any_rig.sbatch(_NOTHING, "--overspill=never", user="alice")
    any_rig.cluster.run(["scancel", str(cancelled)], check=True)
    call = (
        "simulate",
        "--policy",
        "overspill_from=batch",
        "--from",
        "sacct",
        "--since",
        "now-1hours",
        "--warm-up",
        "0",
    )
    answer: dict[str, Any] = {}

    def is_told() -> bool:
        # slurmdbd hears of a job some time after slurmctld.
        answer.update(overspill_json(any_rig, *call))
        return bool(answer["history"]["never_ran"])

    wait_until(is_told, timeout_s=30, what="sacct's word of a job that never ran")
    assert answer["history"]["jobs"] == ClusterOptions().real_nodes
    assert answer["by_user"].keys() == {"bob"}
    assert answer["by_account"].keys() == {ACCOUNT}
    assert answer["cluster"]["cpus"] == {"shared": 2 * ClusterOptions().real_nodes}
