"""agent.toml, a section per module."""

from overspill_agent.config.catalogue import ImageSection
from overspill_agent.config.clusters import ClusterSection
from overspill_agent.config.docker import Docker
from overspill_agent.config.file import DEFAULT_PATH, PATH_VARIABLE, AgentConfig, configured_path, load, parse
from overspill_agent.config.htcondor import Htcondor
from overspill_agent.config.local import Local
from overspill_agent.config.section import DEFAULT_RUNNER
from overspill_agent.config.services import Pki, RunnerChannel, Server, StoreSection, Tls

__all__ = [
    "DEFAULT_PATH",
    "DEFAULT_RUNNER",
    "PATH_VARIABLE",
    "AgentConfig",
    "ClusterSection",
    "Docker",
    "Htcondor",
    "ImageSection",
    "Local",
    "Pki",
    "RunnerChannel",
    "Server",
    "StoreSection",
    "Tls",
    "configured_path",
    "load",
    "parse",
]
