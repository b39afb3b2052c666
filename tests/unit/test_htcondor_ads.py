"""ClassAds in this project's types, and the site's slots out of them."""

from __future__ import annotations

import pytest

from overspill_agent.backends.htcondor.ads import (
    Hold,
    JobAd,
    JobStatus,
    MachineAd,
    Value,
    job_ad,
    machine_ad,
    whole_slot,
)
from overspill_agent.backends.htcondor.machines import slots_of
from overspill_agent.capacity import Slot
from overspill_agent.runs import Resources

_JOB: dict[str, Value] = {
    "ClusterId": 7,
    "ProcId": 0,
    "OverspillRun": "abc",
    "OverspillAttempt": 2,
    "Owner": "alice",
    "JobStatus": 2,
    "ServerTime": 1000,
    "EnteredCurrentStatus": 940,
    "StageInFinish": 900,
    "ExitBySignal": False,
}
_WHOLE = Resources(8, 8192, 2)


def test_a_running_job_is_read_with_its_place_and_what_it_has() -> None:
    more: dict[str, Value] = {
        "RemoteHost": "slot1_3@ep1.site",
        "LastRemoteHost": "slot1_1@ep2.site",
        "CurrentHosts": 1,
        "NumShadowStarts": 1,
        "CpusProvisioned": 2,
        "MemoryProvisioned": 256,
        "RequestCpus": 1,
    }
    job = job_ad(_JOB | more)
    assert (job.condor_job_id, job.run_id, job.attempt, job.owner) == ("7.0", "abc", 2, "alice")
    assert (job.status, job.age_s, job.starts, job.is_hosted) == (JobStatus.RUNNING, 60, 1, True)
    assert job.slot == "slot1@ep1.site"
    assert job.holding == Resources(2, 256, 0)
    assert job.vacate_code is None


def test_an_exit_code_counts_only_once_the_job_has_ended() -> None:
    assert job_ad(_JOB | {"ExitCode": 0}).exit_code is None
    assert job_ad(_JOB | {"JobStatus": 4, "ExitCode": 3}).exit_code == 3
    killed = job_ad(_JOB | {"JobStatus": 4, "ExitBySignal": True, "ExitSignal": 9, "ExitCode": 0})
    assert (killed.exit_code, killed.exit_signal) == (None, 9)


def test_a_hold_counts_only_while_it_lasts() -> None:
    hold: dict[str, Value] = {"HoldReasonCode": 34, "HoldReasonSubCode": 0, "HoldReason": "memory"}
    assert job_ad(_JOB | hold).hold is None
    assert job_ad(_JOB | hold | {"JobStatus": 5}).hold == Hold(34, 0, "memory")


def test_a_job_has_its_files_when_the_schedd_says_so() -> None:
    assert job_ad(_JOB).is_staged
    assert not job_ad({name: value for name, value in _JOB.items() if name != "StageInFinish"}).is_staged


def test_another_projects_job_is_none_of_ours() -> None:
    with pytest.raises(KeyError):
        job_ad({name: value for name, value in _JOB.items() if name != "OverspillRun"})


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("slot1_12@ep", "slot1@ep"),
        ("slot1@ep", "slot1@ep"),
        ("slot_a_1_2@ep_3", "slot_a_1@ep_3"),
        ("ep", "ep"),
        ("", ""),
    ],
)
def test_a_dynamic_slot_is_part_of_the_one_that_it_was_cut_from(name: str, whole: str) -> None:
    assert whole_slot(name) == whole


def test_a_partitionable_slot_has_a_size_and_what_is_left_of_it() -> None:
    machine = machine_ad(
        {
            "Name": "slot1@ep",
            "SlotType": "Partitionable",
            "State": "Unclaimed",
            "Cpus": 5,
            "Memory": 1024,
            "TotalSlotCpus": 8,
            "TotalSlotMemory": 8192,
            "TotalSlotGPUs": 2,
            "GPUs_DeviceName": "NVIDIA A100",
        }
    )
    assert machine == MachineAd("slot1@ep", _WHOLE, Resources(5, 1024, 0), True, True, "nvidia a100")


@pytest.mark.parametrize(
    ("values", "free", "is_open"),
    [
        ({"State": "Unclaimed"}, Resources(4, 100), True),
        ({"State": "Claimed"}, Resources(), True),
        ({"State": "Owner"}, Resources(), False),
        ({"State": "Unclaimed", "Start": False}, Resources(4, 100), False),
    ],
)
def test_a_static_slot_is_free_as_a_whole_or_not_at_all(
    values: dict[str, Value],
    free: Resources,
    is_open: bool,  # noqa: FBT001 - a column of the table
) -> None:
    machine = machine_ad({"Name": "slot1@ep", "SlotType": "Static", "Cpus": 4, "Memory": 100, **values})
    assert (machine.size, machine.free, machine.is_open) == (Resources(4, 100), free, is_open)


def test_what_this_agents_jobs_have_counts_as_free_and_what_others_have_does_not() -> None:
    machines = [MachineAd("slot1@ep", _WHOLE, Resources(3, 4096, 1), True, True, "nvidia a100-sxm")]
    mine = JobAd(
        "7.0", "r", 1, "alice", JobStatus.RUNNING, is_hosted=True, slot="slot1@ep", holding=Resources(2, 1024, 1)
    )
    ended = JobAd("8.0", "s", 1, "alice", JobStatus.COMPLETED, slot="slot1@ep", holding=Resources(2, 1024, 1))
    assert slots_of(machines, [mine, ended], ["a100"]) == (Slot("slot1@ep", _WHOLE, Resources(5, 5120, 2), "a100"),)


def test_what_is_usable_is_never_more_than_there_is_however_old_a_look_is() -> None:
    machines = [MachineAd("slot1@ep", _WHOLE, _WHOLE, True, True)]
    mine = JobAd(
        "7.0", "r", 1, "alice", JobStatus.RUNNING, is_hosted=True, slot="slot1@ep", holding=Resources(2, 1024, 1)
    )
    assert slots_of(machines, [mine], [])[0].usable == _WHOLE


def test_a_closed_machine_has_nothing_to_offer() -> None:
    assert slots_of([MachineAd("slot1@ep", _WHOLE, _WHOLE, False, True)], [], [])[0].usable == Resources()
