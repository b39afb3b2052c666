"""The section of the local back end."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from overspill_agent.config.section import DEFAULT_RUNNER, AbsolutePath, Section, check_roots


class Local(Section):
    """The backend that runs jobs on the agent's own host.

    Attributes:
        directory: one directory per run; on a local file system (it is locked with flock).
        gpu_ids: as CUDA_VISIBLE_DEVICES names them; empty: "0", "1" and so on.
        gpu_type: of which type they are, all of them.
        gpu_files: device files that a run with GPUs sees; `{id}` stands for the id of each that it has.
        features: words of --constraint that every run here satisfies.
        limits: whether runs get no more CPUs and memory than they asked for; see `backends.cgroups.Limits`.
        private: directories of which each run has its own, empty one.
        shared: directories that are the same here as at the cluster; runs may write there.
        python: the interpreter that runs the runner, at least 3.8.
        runner: the runner's file.
    """

    directory: AbsolutePath
    cpus: int = Field(gt=0)
    memory_mib: int = Field(gt=0)
    gpus: int = Field(default=0, ge=0)
    gpu_ids: tuple[str, ...] = ()
    gpu_type: str = ""
    gpu_files: tuple[AbsolutePath, ...] = ()
    features: tuple[str, ...] = ()
    limits: Literal["enforced", "best-effort", "none"] = "best-effort"
    private: tuple[AbsolutePath, ...] = (Path("/home"), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108
    shared: tuple[AbsolutePath, ...] = ()
    python: AbsolutePath = Path("/usr/bin/python3")
    runner: AbsolutePath = DEFAULT_RUNNER

    @model_validator(mode="after")
    def _each_gpu_has_its_id(self) -> Local:
        if self.gpu_ids and len(set(self.gpu_ids)) != self.gpus:
            raise ValueError(f"gpus = {self.gpus}, but gpu_ids names {len(set(self.gpu_ids))}; name each once")
        return self

    @model_validator(mode="after")
    def _roots_are_apart(self) -> Local:
        check_roots(self.private, self.shared)
        if any(self.python.is_relative_to(root) for root in self.private):
            raise ValueError(f"python {self.python} lies in a private directory, where runs cannot see it")
        return self
