"""The container that one attempt runs in, as the engine's API wants it described. Pure.

Source: https://docs.docker.com/reference/api/engine/version/v1.41/, ContainerCreate.

The runner is the container's first process, not below an init program: it reaps, it forwards signals, and nothing in
the container can kill it. As somebody's child it would be as mortal as any process of the same user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from overspill_agent.backends.base import Account, Launch
from overspill_agent.backends.docker.places import Places
from overspill_agent.backends.run_files import CONTROL, ENVIRONMENT, memory_limit_mib, runner_argv
from overspill_agent.runs import Resources

#: Everything of one agent's carries its directory, which no other agent of this engine can have.
AGENT_LABEL = "org.overspill.agent"
RUN_LABEL = "org.overspill.run"
ATTEMPT_LABEL = "org.overspill.attempt"
JOB_LABEL = "org.overspill.job"
GPUS_LABEL = "org.overspill.gpus"
#: An image has labels, too, and its containers inherit what they do not have themselves.
_NO_LABELS = {RUN_LABEL: "", ATTEMPT_LABEL: "0", JOB_LABEL: "", GPUS_LABEL: ""}

_MIB = 1024 * 1024
_NANO = 1_000_000_000
_LOG_FILES = 2
_TRIAL_MIB = 256
_TRIAL_PIDS = 64
_NOBODY = "65534:65534"
#: Where NVIDIA's is the default runtime, a variable of CUDA images asks it for every GPU that there is.
#: Source: https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html
_NO_GPUS = {"NVIDIA_VISIBLE_DEVICES": "void"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator has decided for every container; see `config.Docker`.

    Attributes:
        agent: the agent's directory: whose containers they are.
        memory_mib: what all runs together may ask for; 0: not said.
    """

    agent: str
    memory_mib: int = 0
    network: str = "bridge"
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    pids_limit: int = 4096
    ulimits: Mapping[str, int] = field(default_factory=dict)
    log_mib: int = 2
    gpu_driver: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The engine's host: what a container of it is called, and what no limit can exceed."""

    name: str
    cpus: int
    memory_mib: int


def container_name(run_id: str, attempt: int) -> str:
    """Return the name of an attempt's container: the engine lets no second one have it."""
    return f"overspill-{run_id}-{attempt}"


def container_body(
    launch: Launch,
    rules: Rules,
    machine: Machine,
    *,
    image_id: str,
    directory: Path,
    places: Places,
    gpus: tuple[str, ...],
) -> dict[str, Any]:
    """Return the body of the request that creates an attempt's container.

    Args:
        launch: the attempt.
        rules: the site's.
        machine: the engine's host.
        image_id: what the container is made of: the very image that was tried.
        directory: the attempt's own, with `control`, `files` and `etc` in it.
        places: where it can write.
        gpus: the devices that it has.
    """
    labels = {RUN_LABEL: launch.run_id, ATTEMPT_LABEL: str(launch.attempt), JOB_LABEL: launch.name}
    if gpus:
        labels[GPUS_LABEL] = ",".join(gpus)
    host = _hardened(rules) | _limits(launch.demand.resources, rules, machine)
    host |= {
        "NetworkMode": rules.network,
        "ExtraHosts": [f"{name}:{address}" for name, address in rules.extra_hosts.items()],
        "GroupAdd": [str(gid) for gid in launch.account.groups if gid != launch.account.gid],
        "Mounts": _mounts(directory, places),
        "Tmpfs": {"/run": "rw,nosuid,nodev,mode=755,size=16m"},
        "DeviceRequests": _device_requests(gpus, rules),
    }
    # The container sees its own devices only, numbered from 0.
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(len(gpus))))} if gpus else _NO_GPUS
    return _body(
        image_id,
        runner_argv(launch.demand.image.python if launch.demand.image else "", launch),
        user=_user(launch.account),
        labels=labels | {AGENT_LABEL: rules.agent},
        environment=ENVIRONMENT | devices,
        host=host,
    ) | {"Hostname": machine.name}


def trial_body(image_id: str, argv: list[str], rules: Rules, directory: Path) -> dict[str, Any]:
    """Return the body of the request that creates a container that only tries an image, without any network.

    Args:
        image_id: the image.
        argv: what it executes.
        rules: the site's.
        directory: what it sees as `CONTROL`, read-only.
    """
    host = _hardened(rules) | {
        "NetworkMode": "none",
        "Memory": _TRIAL_MIB * _MIB,
        "MemorySwap": _TRIAL_MIB * _MIB,
        "PidsLimit": _TRIAL_PIDS,
        "Mounts": [_bind(directory, CONTROL, read_only=True)],
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,mode=1777,size=16m"},  # noqa: S108
    }
    environment = ENVIRONMENT | _NO_GPUS
    return _body(image_id, argv, user=_NOBODY, labels={AGENT_LABEL: rules.agent}, environment=environment, host=host)


def _body(
    image_id: str,
    argv: list[str],
    *,
    user: str,
    labels: Mapping[str, str],
    environment: Mapping[str, str],
    host: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a body in which nothing of the image's own start is left: entry point, command, health check."""
    return {
        "Image": image_id,
        "Entrypoint": argv,
        "Cmd": [],
        "Healthcheck": {"Test": ["NONE"]},
        "WorkingDir": "/",
        "User": user,
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": {**_NO_LABELS, **labels},
        # Who stops a container by hand, or the engine, takes the machine away from the job: it has not ended by itself.
        "StopSignal": "SIGKILL",
        "HostConfig": dict(host),
    }


def _user(account: Account) -> str:
    return f"{account.uid}:{account.gid}"


def _hardened(rules: Rules) -> dict[str, Any]:
    """Return what every container has, whatever it is for."""
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "IpcMode": "private",
        # Files of a run belong to its account: an engine that remaps uids for others does not here.
        "UsernsMode": "host",
        "Init": False,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": f"{rules.log_mib * 1024 // _LOG_FILES}k", "max-file": str(_LOG_FILES)},
        },
    }


def _limits(resources: Resources, rules: Rules, machine: Machine) -> dict[str, Any]:
    """Return the limits of a run; no swap beside its memory, which the engine would add by itself."""
    memory = memory_limit_mib(resources.memory_mib, rules.memory_mib) * _MIB
    shm_mib = resources.memory_mib or machine.memory_mib // 2
    return {
        "NanoCpus": min(resources.cpus, machine.cpus) * _NANO,
        "Memory": memory,
        "MemorySwap": memory,
        "PidsLimit": rules.pids_limit,
        "ShmSize": shm_mib * _MIB,
        "Ulimits": [{"Name": name, "Soft": limit, "Hard": limit} for name, limit in rules.ulimits.items()],
    }


def _device_requests(gpus: tuple[str, ...], rules: Rules) -> list[dict[str, Any]]:
    if not gpus:
        return []
    return [{"Driver": rules.gpu_driver, "DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]


def _mounts(directory: Path, places: Places) -> list[dict[str, Any]]:
    """Return the mounts. None is of type "volume", and a source that is missing is an error, not a new directory."""
    own = [_bind(directory / "files" / path.relative_to("/"), path) for path in places.own]
    shared = [_bind(path, path) for path in places.shared]
    etc = [
        _bind(directory / "etc" / name, PurePosixPath("/etc") / name, read_only=True) for name in ("passwd", "group")
    ]
    return [*own, *shared, *etc, _bind(directory / "control", CONTROL)]


def _bind(source: Path | PurePosixPath, target: PurePosixPath, *, read_only: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": str(target), "ReadOnly": read_only}
