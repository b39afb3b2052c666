"""Jobs and machines as their ClassAds tell of them, in this project's types. Pure.

The names of attributes are HTCondor's. Source: https://htcondor.readthedocs.io, "Job ClassAd Attributes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from overspill_agent.runs import Resources

#: What `htcondor2` gives for an attribute's value, once undefined ones are left out.
Value = str | int | float | bool
#: Of this project. One job is one attempt; the agent names itself, because others may submit there.
AGENT, RUN, ATTEMPT, FORGOTTEN = "OverspillAgent", "OverspillRun", "OverspillAttempt", "OverspillForgotten"
INTRODUCTION = "OverspillIntroduction"

JOB_ATTRIBUTES = (
    *("ClusterId", "ProcId", "Owner", RUN, ATTEMPT, "JobStatus", "ServerTime", "EnteredCurrentStatus"),
    *(
        "StageInStart",
        "StageInFinish",
        "NumShadowStarts",
        "CurrentHosts",
        "RemoteHost",
        "LastRemoteHost",
        "JobDisconnectedDate",
    ),
    *("JobCurrentStartExecutingDate", "HoldReason", "HoldReasonCode", "HoldReasonSubCode"),
    *("RemoveReason", "VacateReason", "VacateReasonCode", "ExitBySignal", "ExitCode", "ExitSignal"),
    *("RequestCpus", "RequestMemory", "RequestGPUs", "CpusProvisioned", "MemoryProvisioned", "GPUsProvisioned"),
)
MACHINE_ATTRIBUTES = (
    *("Name", "SlotType", "State", "Start", "Offline"),
    *("Cpus", "Memory", "GPUs", "TotalSlotCpus", "TotalSlotMemory", "TotalSlotGPUs", "GPUs_DeviceName"),
)
_DYNAMIC_SLOT = re.compile(r"(slot[^@]*?)_\d+(@.*)")


class JobStatus(IntEnum):
    """A job's state at the schedd."""

    IDLE = 1
    RUNNING = 2
    REMOVED = 3
    COMPLETED = 4
    HELD = 5
    TRANSFERRING_OUTPUT = 6
    SUSPENDED = 7


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a job is held."""

    code: int
    subcode: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JobAd:
    """One job, as the schedd has it.

    Attributes:
        age_s: how long it has been in this state, by the schedd's clock alone.
        is_staged: its input files are at the access point, or this agent has sent them; else it cannot run. The schedd
            takes a second to say so.
        starts: how often a shadow was started for it: from then on something of it may run.
        is_hosted: a shadow is at work for it.
        slot: where it is or was last; of a partitionable slot the whole one's name; empty before.
        is_executing: the starter has said that the job's own process was started.
        is_disconnected: its execution host does not answer its shadow, or had not when it was given up.
        vacate_code: why it left its last machine; None while no starter has told of its end.
        holding: what it has of its machine.
    """

    condor_job_id: str
    run_id: str
    attempt: int
    owner: str
    status: JobStatus
    age_s: int = 0
    is_staged: bool = True
    starts: int = 0
    is_hosted: bool = False
    slot: str = ""
    is_executing: bool = False
    is_disconnected: bool = False
    hold: Hold | None = None
    remove_reason: str = ""
    vacate_reason: str = ""
    vacate_code: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    holding: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True)
class MachineAd:
    """One slot that jobs can be matched to, as the collector has it: `size` is all, `free` what nobody has."""

    name: str
    size: Resources
    free: Resources
    is_open: bool
    is_partitionable: bool
    gpu_type: str = ""


def job_ad(values: Mapping[str, Value]) -> JobAd:
    """Return the job.

    Raises:
        KeyError, ValueError: it is none of this project's.
    """
    status = JobStatus(int(values["JobStatus"]))
    by_signal = bool(values.get("ExitBySignal", False))
    is_over = status is JobStatus.COMPLETED
    return JobAd(
        condor_job_id=f"{values['ClusterId']}.{values['ProcId']}",
        run_id=str(values[RUN]),
        attempt=int(values[ATTEMPT]),
        owner=str(values.get("Owner", "")),
        status=status,
        age_s=_number(values, "ServerTime") - _number(values, "EnteredCurrentStatus"),
        is_staged="StageInFinish" in values,
        starts=_number(values, "NumShadowStarts"),
        is_hosted=_number(values, "CurrentHosts") > 0,
        slot=whole_slot(str(values.get("RemoteHost") or values.get("LastRemoteHost") or "")),
        is_executing="JobCurrentStartExecutingDate" in values,
        is_disconnected="JobDisconnectedDate" in values,
        hold=_hold(values) if status is JobStatus.HELD else None,
        remove_reason=str(values.get("RemoveReason", "")),
        vacate_reason=str(values.get("VacateReason", "")),
        vacate_code=_number(values, "VacateReasonCode") if "VacateReasonCode" in values else None,
        exit_code=_number(values, "ExitCode") if is_over and not by_signal and "ExitCode" in values else None,
        exit_signal=_number(values, "ExitSignal") if is_over and by_signal else None,
        holding=_holding(values),
    )


def machine_ad(values: Mapping[str, Value]) -> MachineAd:
    """Return the slot."""
    is_partitionable = values.get("SlotType") == "Partitionable"
    size = Resources(
        cpus=_number(values, "TotalSlotCpus") or _number(values, "Cpus"),
        memory_mib=_number(values, "TotalSlotMemory") or _number(values, "Memory"),
        gpus=_number(values, "TotalSlotGPUs") or _number(values, "GPUs"),
    )
    free = Resources(_number(values, "Cpus"), _number(values, "Memory"), _number(values, "GPUs"))
    is_taken = not is_partitionable and values.get("State") not in ("Unclaimed", "Backfill")
    return MachineAd(
        name=str(values["Name"]),
        size=size,
        free=Resources() if is_taken else free,
        is_open=values.get("State") not in ("Owner", "Drained") and values.get("Start", True) is not False,
        is_partitionable=is_partitionable,
        gpu_type=str(values.get("GPUs_DeviceName", "")).lower(),
    )


def whole_slot(name: str) -> str:
    """Return the partitionable slot that a dynamic one was cut from: `slot1_2@ep` is part of `slot1@ep`."""
    dynamic = _DYNAMIC_SLOT.fullmatch(name)
    return dynamic[1] + dynamic[2] if dynamic else name


def _hold(values: Mapping[str, Value]) -> Hold:
    return Hold(
        code=_number(values, "HoldReasonCode"),
        subcode=_number(values, "HoldReasonSubCode"),
        reason=str(values.get("HoldReason", "")),
    )


def _holding(values: Mapping[str, Value]) -> Resources:
    return Resources(
        cpus=_number(values, "CpusProvisioned") or _number(values, "RequestCpus"),
        memory_mib=_number(values, "MemoryProvisioned") or _number(values, "RequestMemory"),
        gpus=_number(values, "GPUsProvisioned") or _number(values, "RequestGPUs"),
    )


def _number(values: Mapping[str, Value], name: str) -> int:
    """Return an attribute as a whole number, 0 where it is none."""
    value = values.get(name, 0)
    return int(value) if isinstance(value, int | float) else 0
