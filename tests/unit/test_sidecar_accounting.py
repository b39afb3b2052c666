"""Associations and QOS as slurmctld tells them, and what they mean for a job in an overspill partition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overspill.errors import UnavailableError
from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.accounting import Accounting, Counted, Demand
from overspill_sidecar.decision.shape import Pins, Shape
from overspill_sidecar.decision.target import why_target_refuses
from overspill_sidecar.slurm.assoc_mgr import parse_accounting
from tests.unit.sidecar_cluster import CONFIG, OVERSPILL, partition

ALICE, BOB, EVE = 2001, 2002, 2003
#: As Slurm 22.05.8 printed it, but for lines and TRES that nobody reads.
SHOWN = (Path(__file__).parent / "slurm_22_05/assoc_mgr.txt").read_text()
ENFORCING = replace(CONFIG, enforced=frozenset({"associations", "limits", "qos"}))


@pytest.fixture(name="accounting", scope="module")
def _accounting() -> Accounting:
    return parse_accounting(SHOWN)


def test_users_have_the_accounts_that_slurm_gives_them(accounting: Accounting) -> None:
    assert accounting.account_of(ALICE, "") == "hpc"
    assert accounting.account_of(ALICE, "other") == "other"
    assert accounting.account_of(EVE, "") == ""
    assert accounting.has_association(ALICE, "hpc", "overspill")
    assert not accounting.has_association(ALICE, "other", "overspill")
    assert accounting.has_association(BOB, "child", "batch")
    assert not accounting.has_association(BOB, "child", "overspill")


def test_limits_are_read_with_what_is_used_of_them(accounting: Accounting) -> None:
    limits = accounting.associations["hpc", ALICE, ""].limits
    assert limits.groups == {
        "jobs": Counted(7, 2),
        "submit": Counted(20, 2),
        "tres/cpu": Counted(12, 2),
        "tres/mem": Counted(102400, 2000),
    }
    assert (limits.job_tres, limits.wall_min) == ({"cpu": 64}, 1440)
    qos = accounting.qos["ovs"]
    assert qos.limits.job_tres == {"cpu": 4, "mem": 10240}
    assert (qos.limits.node_tres, qos.limits.job_minutes, qos.limits.wall_min) == ({"cpu": 7}, {"cpu": 1000}, 30)
    assert qos.users[ALICE].groups == {"jobs": Counted(3, 1), "tres/cpu": Counted(8, 1)}
    assert accounting.qos["normal"].accounts.keys() == {"hpc", "child"}


def test_a_qos_section_is_its_users_whether_slurm_names_him_or_not(accounting: Accounting) -> None:
    named = SHOWN.replace("\n      2001\n", "\n      alice(2001)\n")  # as 24.11 and 26.05 have it
    assert named != SHOWN
    assert parse_accounting(named) == accounting


def _demand(**changes: Any) -> Demand:
    tres = {"cpu": 1, "mem": 100, "node": 1}
    return replace(Demand(slots=1, tasks=1, tres=tres, nodes=1, minutes=10), **changes)


@pytest.mark.parametrize(
    ("user", "account", "qos", "changes", "is_reached"),
    [
        (ALICE, "hpc", "", {}, False),
        (ALICE, "hpc", "", {"slots": 6}, True),  # MaxJobs=7(2)
        (ALICE, "hpc", "", {"tasks": 18}, False),
        (ALICE, "hpc", "", {"tasks": 19}, True),  # MaxSubmitJobs=20(2)
        (ALICE, "hpc", "", {"tres": {"cpu": 10}}, False),
        (ALICE, "hpc", "", {"tres": {"cpu": 11}}, True),  # GrpTRES=cpu=12(2)
        (ALICE, "hpc", "", {"minutes": 1441}, True),  # MaxWallPJ=1440
        (ALICE, "hpc", "", {"minutes": None}, True),
        (BOB, "hpc", "", {"minutes": 99_970}, False),
        (BOB, "hpc", "", {"minutes": 99_971}, True),  # of the account: GrpTRESRunMins=cpu=100000(30)
        (BOB, "child", "", {"minutes": 99_971}, True),  # of the account above
        (ALICE, "hpc", "ovs", {"tres": {"cpu": 4}}, False),
        (ALICE, "hpc", "ovs", {"tres": {"cpu": 5}}, True),  # MaxTRESPJ=cpu=4
        (ALICE, "hpc", "ovs", {"slots": 3}, True),  # MaxJobsPU=3(1)
        (BOB, "hpc", "ovs", {"slots": 3}, False),
        (BOB, "hpc", "ovs", {"slots": 10}, True),  # GrpTRES=cpu=10(1)
        (BOB, "hpc", "ovs", {"tres": {"cpu": 2}, "minutes": 501}, True),  # MaxTRESMinsPJ=cpu=1000
    ],
)
def test_a_limit_that_would_keep_the_job_back_is_seen(
    accounting: Accounting, user: int, account: str, qos: str, changes: dict[str, Any], *, is_reached: bool
) -> None:
    demand = _demand(**({"minutes": 10, "tres": {"cpu": 1}} | changes))
    assert accounting.is_limit_reached(demand, user, account, "batch", (qos,)) is is_reached


def test_what_an_account_says_per_user_holds_for_no_group_of_them() -> None:
    account = SHOWN.replace("MaxJobs= ", "MaxJobs=1(2) ", 3)
    accounting = parse_accounting(account)
    assert "jobs" not in accounting.associations["hpc", None, ""].limits.groups


def test_time_used_up_counts_as_reached(accounting: Accounting) -> None:
    used_up = parse_accounting(SHOWN.replace("GrpTRESMins=cpu=5000(0)", "GrpTRESMins=cpu=5000(5001)"))
    assert not accounting.is_limit_reached(_demand(), BOB, "hpc", "overspill", ("ovs",))
    assert used_up.is_limit_reached(_demand(), BOB, "hpc", "overspill", ("ovs",))


@pytest.mark.parametrize(
    ("reason", "user", "job", "target"),
    [
        (None, ALICE, {}, {}),
        ("no_association", EVE, {}, {}),
        ("no_association", ALICE, {"account": "other"}, {}),
        ("association_of_partition", BOB, {"account": "child"}, {}),
        (None, BOB, {}, {}),
        ("target_account", ALICE, {}, {"deny_accounts": ("hpc",)}),
        (None, ALICE, {}, {"allow_accounts": ("hpc",)}),
        ("limit_reached", ALICE, {"array": "1-40%1"}, {}),
        ("limit_reached", ALICE, {}, {"qos": "ovs"}),
        ("accounting_unknown", ALICE, {}, {"qos": "gone"}),
        ("target_qos", ALICE, {}, {"deny_qos": ("normal",)}),
    ],
)
def test_what_accounting_says_of_a_job_in_the_target(
    accounting: Accounting, reason: str | None, user: int, job: dict[str, Any], target: dict[str, Any]
) -> None:
    request = DecideRequest(user_id=user, **job)
    shape = Shape(cpus=5, memory_mib=100, time_limit_s=600, slots=1, pins=Pins(), tasks=40 if "array" in job else 1)
    target_partition = replace(OVERSPILL, **target)
    assert why_target_refuses(request, shape, [partition()], target_partition, ENFORCING, accounting) == reason


def test_accounting_that_is_enforced_but_not_told_keeps_jobs() -> None:
    shape = Shape(cpus=1, memory_mib=100, time_limit_s=600, slots=1, pins=Pins())
    request = DecideRequest(user_id=ALICE)
    assert why_target_refuses(request, shape, [partition()], OVERSPILL, ENFORCING, None) == "accounting_unknown"
    assert why_target_refuses(request, shape, [partition()], OVERSPILL, CONFIG, None) is None


def test_limits_that_slurm_does_not_enforce_keep_nobody(accounting: Accounting) -> None:
    shape = Shape(cpus=64, memory_mib=100, time_limit_s=600, slots=1, pins=Pins())
    config = replace(CONFIG, enforced=frozenset({"associations"}))
    request = DecideRequest(user_id=ALICE)
    assert why_target_refuses(request, shape, [partition()], OVERSPILL, config, accounting) is None


def test_an_answer_that_is_none_is_no_empty_answer() -> None:
    with pytest.raises(UnavailableError):
        parse_accounting("ClusterName=rig Account=hpc\n")
    with pytest.raises(UnavailableError):
        parse_accounting("ClusterName=rig Account=hpc UserName=alice Partition=\n")
