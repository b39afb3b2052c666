"""What the engine's answers mean. Pure.

Source: https://docs.docker.com/reference/api/engine/version/v1.41/, ContainerInspect and SystemEventMessage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overspill.errors import AdminError, ExhaustedError, OverspillError, UnavailableError
from overspill.states import Outcome
from overspill_agent.backends.docker.container import AGENT_LABEL, ATTEMPT_LABEL, GPUS_LABEL, RUN_LABEL, Machine
from overspill_agent.runs import Seen, Sighting, Verdict

#: Go's zero time: what the engine says where something has never been.
_NEVER = "0001-01-01"
_KILLED = 137
_SHORT_ID = 12
#: A run's id becomes a path here, and labels may be anybody's: an image can have them, and whoever runs it by hand.
_RUN_ID = re.compile(r"[0-9A-Za-z_-]+")
#: HTTP's.
_CONFLICT = 409
#: Words of the engine's for a container that has processes, and for one that never had any.
_LIVING = frozenset({"running", "paused", "restarting"})
_CREATED = "created"
_MIB = 1024 * 1024

_SHORTAGE = re.compile(
    r"no space left on device|disk quota exceeded|cannot allocate memory|resource temporarily unavailable"
    r"|too many open files|out of memory",
    re.IGNORECASE,
)
#: The engine is there, but the containerd under it is not, or is on its way.
_PASSING = re.compile(
    r"transport is closing|connection refused|context canceled|deadline exceeded|connection reset|is shutting down"
    r"|error while dialing",
    re.IGNORECASE,
)


class RefusedError(AdminError):
    """The engine has answered, and does not do it. `explanation` is its own."""

    def __init__(self, reason: str, status: int, explanation: str) -> None:
        super().__init__(reason)
        self.status = status
        self.explanation = explanation

    @property
    def is_conflict(self) -> bool:
        """Whether the name is taken, or the container is in no state for that."""
        return self.status == _CONFLICT


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The engine and its host."""

    machine: Machine
    is_rootless: bool
    has_live_restore: bool


@dataclass(frozen=True, slots=True)
class Container:
    """A container of this agent's.

    Attributes:
        run_id, attempt: whose; empty and 0 for one that only tries an image.
        is_alive: it has processes, be they paused.
        was_started: it ever had one.
        exit_code: its first process's; 128 more than the signal that has killed it.
        was_oom_killed: the kernel has killed some process of it for want of memory.
        gpus: the devices that were given to it.
    """

    container_id: str
    run_id: str
    attempt: int
    is_alive: bool
    was_started: bool
    exit_code: int
    was_oom_killed: bool
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list of containers says of one of this agent's.

    Attributes:
        run_id: whose; empty for one that only tries an image.
        is_over: it had processes, and has none any more.
        gpus: as in `Container`.
    """

    container_id: str
    run_id: str
    is_alive: bool
    is_over: bool
    gpus: tuple[str, ...]


def engine_facts(info: Mapping[str, Any]) -> EngineFacts:
    """Return what `GET /info` says."""
    return EngineFacts(
        machine=Machine(info["Name"], int(info["NCPU"]), int(info["MemTotal"]) // _MIB),
        is_rootless="name=rootless" in (info.get("SecurityOptions") or ()),
        has_live_restore=bool(info.get("LiveRestoreEnabled")),
    )


def container(inspected: Mapping[str, Any]) -> Container:
    """Return what `GET /containers/NAME/json` says."""
    state, labels = inspected["State"], inspected["Config"]["Labels"] or {}
    return Container(
        container_id=inspected["Id"],
        run_id=_run_id(labels),
        attempt=int(labels.get(ATTEMPT_LABEL, 0)),
        is_alive=bool(state["Running"] or state["Paused"] or state["Restarting"]),
        was_started=not state["StartedAt"].startswith(_NEVER),
        exit_code=int(state["ExitCode"]),
        was_oom_killed=bool(state["OOMKilled"]),
        gpus=_gpus(labels),
    )


def listed(entry: Mapping[str, Any]) -> Listed:
    """Return what `GET /containers/json` says of one."""
    state, labels = entry["State"], entry["Labels"] or {}
    is_alive = state in _LIVING
    return Listed(
        container_id=entry["Id"],
        run_id=_run_id(labels),
        is_alive=is_alive,
        is_over=not is_alive and state != _CREATED,
        gpus=_gpus(labels),
    )


def _run_id(labels: Mapping[str, str]) -> str:
    run_id = labels.get(RUN_LABEL, "")
    return run_id if _RUN_ID.fullmatch(run_id) else ""


def _gpus(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(filter(None, labels.get(GPUS_LABEL, "").split(",")))


def sighting(seen: Container, machine: str) -> Sighting:
    """Return what a container that was ever started shows of its attempt."""
    remote_id = seen.container_id[:_SHORT_ID]
    if seen.is_alive:
        return Sighting(Seen.ALIVE, remote_id=remote_id, machine=machine)
    return Sighting(Seen.GONE, _verdict(seen), remote_id, machine)


def sighting_of_removed(machine: str) -> Sighting:
    """Return what it means that there is no container of an attempt that was started."""
    return Sighting(Seen.GONE, Verdict(Outcome.NODE_FAIL, "the job's container was removed at the site"), "", machine)


def _verdict(ended: Container) -> Verdict | None:
    """Return what the engine knows of an end that the runner has not told: nothing where the runner ended by itself.

    The runner is the container's first process: nothing inside can kill it but the kernel. `was_oom_killed` alone is
    no failure: it may have been a process that the script could do without.
    """
    if ended.exit_code != _KILLED:
        return None
    if ended.was_oom_killed:
        return Verdict(
            Outcome.OUT_OF_MEMORY, "the job used more memory than it had asked for, and the kernel killed it"
        )
    return Verdict(Outcome.NODE_FAIL, "the job's container was killed at the site")


def run_of_event(event: Mapping[str, Any], agent: str) -> str:
    """Return whose container an event of `GET /events` is about; empty if it is none of this agent's runs."""
    labels = (event.get("Actor") or {}).get("Attributes") or {}
    return _run_id(labels) if labels.get(AGENT_LABEL) == agent else ""


def exit_code_of_event(event: Mapping[str, Any]) -> int | None:
    """Return with which code a container has ended; None where the event is about something else."""
    if event.get("Action") != "die":
        return None
    code = event["Actor"]["Attributes"].get("exitCode", "")
    return int(code) if code.isdigit() else None


def refusal(doing: str, status: int, explanation: str) -> OverspillError:
    """Return what it means that the engine has refused something.

    Args:
        doing: what was asked, for people: "start a container".
        status: HTTP's.
        explanation: the engine's.
    """
    reason = f"the container engine cannot {doing}: {explanation}"
    if _SHORTAGE.search(explanation):
        return ExhaustedError(reason)
    if _PASSING.search(explanation):
        return UnavailableError(reason)
    if "bind source path does not exist" in explanation:
        reason += "; the engine must have [docker] directory and shared at the same paths"
    elif "could not select device driver" in explanation:
        reason += "; install the GPU vendor's container toolkit, or correct [docker] gpu_driver"
    return RefusedError(reason, status, explanation)
