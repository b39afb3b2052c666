"""What the operator has decided about the engine's host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from overspill_agent.backends.docker.container import Rules
from overspill_agent.runs import Resources


@dataclass(frozen=True, slots=True)
class DockerSite:
    """The section `[docker]`, without its syntax.

    Attributes:
        directory: one directory per run is made here; the engine sees it at the same path.
        resources: what all runs together may ask for.
        gpus: devices, as the engine's driver names them; as many as `resources` has.
        private, shared: as in `places`.
        features: words of --constraint that runs here satisfy.
        rules: for every container.
        socket: the engine's.
        runner: the runner's file.
    """

    directory: Path
    resources: Resources
    rules: Rules
    socket: str
    runner: Path
    gpus: tuple[str, ...] = ()
    gpu_type: str = ""
    private: tuple[PurePosixPath, ...] = ()
    shared: tuple[PurePosixPath, ...] = ()
    features: frozenset[str] = frozenset()
