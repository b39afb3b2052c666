"""Runs in containers of this host's Docker engine. `container` and `reading` are pure, `engine` alone calls the SDK."""

from overspill_agent.backends.docker.backend import DockerBackend, DockerSite
from overspill_agent.backends.docker.container import Rules

__all__ = ["DockerBackend", "DockerSite", "Rules"]
