"""The section of the Docker back end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from overspill_agent.config.section import DEFAULT_RUNNER, AbsolutePath, Section, check_roots


def _be_a_socket(value: str) -> str:
    if not value.startswith("unix:///"):
        raise ValueError('write "unix:///path/of/docker.sock"; the engine must be on this host')
    return value


def _reach_the_agent(value: str) -> str:
    if value in ("none", "") or value.startswith("container:"):
        raise ValueError("runners must reach this agent; name a network of the engine, as in `docker network ls`")
    return value


class Docker(Section):
    """The back end that runs each job in a container of this host's engine.

    Attributes:
        directory: one directory per run, here and for the engine at the same path; on a local file system.
        gpus: the GPUs that runs may have, as the engine's driver knows them: indices or UUIDs.
        gpu_type: of which type they are, as in --gres=gpu:TYPE:1.
        gpu_driver: the engine's driver for them, "nvidia" or "cdi"; empty: whichever the engine has.
        socket: the engine's.
        network: the engine's network that containers are in; from it they must reach [runner_channel] url.
        extra_hosts: names that containers know beside those of the name service; "host-gateway" is this host.
        private: directories of which each run has its own, empty one.
        shared: directories that are the same here as at the cluster; runs may write there.
        features: words of --constraint that every run here satisfies.
        pids_limit: processes and threads of one run.
        ulimits: hard limits of runs beside those that the engine gives; -1 is none.
        log_mib: what the engine keeps of a runner's own messages, at most.
        runner: the runner's file.
    """

    directory: AbsolutePath
    cpus: int = Field(gt=0)
    memory_mib: int = Field(gt=0)
    gpus: tuple[str, ...] = ()
    gpu_type: str = ""
    gpu_driver: Literal["", "nvidia", "cdi"] = ""
    socket: Annotated[str, AfterValidator(_be_a_socket)] = "unix:///run/docker.sock"
    network: Annotated[str, AfterValidator(_reach_the_agent)] = "bridge"
    extra_hosts: dict[str, str] = Field(default_factory=dict)
    private: tuple[AbsolutePath, ...] = (Path("/home"), Path("/tmp"), Path("/var/tmp"))  # noqa: S108
    shared: tuple[AbsolutePath, ...] = ()
    features: tuple[str, ...] = ()
    pids_limit: int = Field(default=4096, ge=16)
    ulimits: dict[str, int] = Field(default_factory=dict)
    log_mib: int = Field(default=2, ge=1)
    runner: AbsolutePath = DEFAULT_RUNNER

    @model_validator(mode="after")
    def _roots_are_apart(self) -> Docker:
        check_roots(self.private, self.shared)
        return self

    @model_validator(mode="after")
    def _gpus_are_told_apart(self) -> Docker:
        if len(set(self.gpus)) < len(self.gpus):
            raise ValueError("a GPU is listed twice in `gpus`")
        if self.gpu_type and not self.gpus:
            raise ValueError("`gpu_type` says of which type `gpus` are; list them")
        return self
