"""A pending job keeps a slot from others as long as Slurm may be about to give it to it, and not for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from overspill_sidecar.cluster import Job, Snapshot, Trail
from overspill_sidecar.decision.capacity import Amount, rooms_in
from overspill_sidecar.decision.claims import VainClaims
from tests.unit.sidecar_cluster import full_batch, job, running, snapshot


def _waiting(slurm_job_id: int = 7, **changes: Any) -> Job:
    plain = {"partitions": ("batch", "overspill"), "trail": Trail("d-1", "site-a", "batch"), "cpus": 4}
    return job(slurm_job_id, **{**plain, **changes})


def _seen(asked_at: float, *jobs: Job) -> Snapshot:
    return replace(snapshot(*full_batch(), *jobs), asked_at=asked_at)


def test_a_claim_ends_when_slurm_has_had_room_for_the_job_for_ten_minutes_and_not_started_it() -> None:
    vain = VainClaims()
    for asked_at in (0.0, 300.0, 599.0):
        seen = _seen(asked_at, _waiting())
        assert rooms_in(seen, vain.observe(seen))["overspill"].waiting.cpus == 4
    seen = _seen(600.0, _waiting())
    room = rooms_in(seen, vain.observe(seen))["overspill"]
    assert (room.waiting, room.jobs) == (Amount(), 1)


def test_a_job_that_there_was_no_room_for_meanwhile_claims_on() -> None:
    vain = VainClaims()
    full = running(8, "ovs1", 8, partitions=("overspill",))
    assert [vain.observe(_seen(at, _waiting(), *more)) for at, more in ((0.0, ()), (300.0, (full,)), (700.0, ()))] == [
        frozenset(),
        frozenset(),
        frozenset(),
    ]
    assert vain.observe(_seen(1300.0, _waiting())) == {7}


@pytest.mark.parametrize(
    "other",
    [
        _waiting(partitions=("batch",)),
        _waiting(trail=None),
        _waiting(reason="Dependency"),
        _waiting(cpus=9),
        _waiting(memory_mib=10**6),
        _waiting(gpus=1),
    ],
)
def test_only_who_waits_for_a_site_that_has_room_is_passed_over(other: Job) -> None:
    vain = VainClaims()
    vain.observe(_seen(0.0, other))
    assert vain.observe(_seen(10_000.0, other)) == frozenset()


@pytest.mark.parametrize("reason", ["QOSMaxJobsPerUserLimit", "AssocGrpCpuLimit"])
def test_a_job_that_a_limit_of_its_account_or_qos_keeps_back_claims_nothing(reason: str) -> None:
    room = rooms_in(_seen(0.0, _waiting(reason=reason)))["overspill"]
    assert (room.waiting, room.jobs) == (Amount(), 1)
