"""The section of the HTCondor back end."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from overspill_agent.config.section import DEFAULT_RUNNER, AbsolutePath, Section

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _be_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("write letters, digits, `.`, `-` and `_` only")
    return value


Name = Annotated[str, AfterValidator(_be_name)]


class Feature(Section):
    """What a word of --constraint means here.

    Attributes:
        requirements: ClassAd expression over a machine's attributes, without `TARGET.`: `CpuFamily == 6`.
        rank: likewise, a number: machines with more of it come first.
    """

    requirements: str = "true"
    rank: str = ""


class Htcondor(Section):
    """The back end that submits each run as a job to an HTCondor access point.

    Attributes:
        collector: "host[:port]" of the pool's central manager.
        schedd: the access point's name, as `condor_status -schedd` shows it.
        token_directory: holds the IDTOKEN and nothing else; mode 0700.
        name: this agent's jobs carry it; two agents at one access point must differ, and it must never change.
        universe: of runs that have an image; those without are in the vanilla universe.
        python: the interpreter on execution hosts that runs the runner in the vanilla universe, at least 3.8.
        runner: the runner's file, here.
        requirements: which machines runs may be on; as in `Feature`, and so is rank.
        images_attribute: a machine's attribute that lists, in one string, the images that it has, as execution hosts
            may advertise it; runs are matched only to machines that have theirs. Empty: whether a machine has an image
            is found out there.
        features: words of --constraint.
        gpu_types: by type, in lower case, the ClassAd expression that a GPU must satisfy; `DeviceName` is one of its
            attributes. Other types are looked for in DeviceName.
        commands: further submit commands for every job: `docker_network_type = "host"`, `+Project = '"hpc"'`.
        disk_mib: scratch space that each run asks for.
        start_within_s: a run that no machine has taken for so long goes home.
        held_within_s: likewise one that somebody holds.
        job_lease_s: execution hosts keep a job for so long while the access point is away.
        overrun_s: the access point holds a job that has run for longer than its time limit by so much: the runner, who
            should have ended it, and knows of a limit that was changed, has failed.
        poll_s: one query for all jobs that often; while one is being started or stopped, every `busy_poll_s`.
        machines_poll_s: one query for all machines that often.
    """

    collector: str = Field(min_length=1)
    schedd: str = Field(min_length=1)
    token_directory: AbsolutePath = Path("/etc/overspill/tokens.d")
    name: Name = Field(default_factory=socket.gethostname)
    universe: Literal["docker", "container"] = "docker"
    python: AbsolutePath = Path("/usr/bin/python3")
    runner: AbsolutePath = DEFAULT_RUNNER
    requirements: str = "true"
    rank: str = ""
    images_attribute: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    features: dict[str, Feature] = Field(default_factory=dict)
    gpu_types: dict[str, str] = Field(default_factory=dict)
    commands: dict[str, str] = Field(default_factory=dict)
    disk_mib: int = Field(default=1024, gt=0)
    start_within_s: int = Field(default=3600, gt=0)
    held_within_s: int = Field(default=86_400, gt=0)
    job_lease_s: int = Field(default=300, ge=20)
    overrun_s: int = Field(default=86_400, ge=600)
    poll_s: float = Field(default=5.0, gt=0)
    busy_poll_s: float = Field(default=0.5, gt=0)
    machines_poll_s: float = Field(default=15.0, gt=0)
