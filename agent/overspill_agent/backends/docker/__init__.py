"""Runs in containers of this host's Docker engine. `container` and `reading` are pure, `engine` alone calls the SDK."""

from overspill_agent.backends.docker.backend import DockerBackend
from overspill_agent.backends.docker.container import Rules
from overspill_agent.backends.docker.site import DockerSite

__all__ = ["DockerBackend", "DockerSite", "Rules"]
