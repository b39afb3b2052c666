"""Which back end agent.toml asks for."""

from __future__ import annotations

from pathlib import PurePosixPath

from overspill.errors import ConfigError
from overspill_agent.backends.base import Backend
from overspill_agent.backends.devices import Gpus
from overspill_agent.backends.local import Limits, LocalBackend, LocalSite
from overspill_agent.backends.sandbox import Roots
from overspill_agent.config import DEFAULT_PATH, AgentConfig, Local
from overspill_agent.runs import Resources


def backend_of(config: AgentConfig) -> Backend:
    """Return the back end, not open yet.

    Raises:
        AdminError: it can never work on this host as it is configured.
    """
    if config.local is not None:
        return LocalBackend(_local_site(config, config.local))
    raise ConfigError("no back end is configured; add [local]")


def _local_site(config: AgentConfig, local: Local) -> LocalSite:
    """Return the local back end's part of the configuration. Runs never see the agent's own directories."""
    hidden = {config.store.path.parent, config.pki.directory, local.directory, DEFAULT_PATH.parent}
    return LocalSite(
        directory=local.directory,
        resources=Resources(cpus=local.cpus, memory_mib=local.memory_mib, gpus=local.gpus),
        roots=Roots(
            private=tuple(map(PurePosixPath, local.private)),
            shared=tuple(map(PurePosixPath, local.shared)),
            hidden=tuple(map(PurePosixPath, sorted(hidden))),
        ),
        python=local.python,
        runner=local.runner,
        limits=Limits(local.limits),
        gpus=Gpus(
            ids=local.gpu_ids or tuple(map(str, range(local.gpus))),
            gpu_type=local.gpu_type.lower(),
            files=tuple(map(str, local.gpu_files)),
        ),
    )
