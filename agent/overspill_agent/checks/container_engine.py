"""What the docker back end needs of its engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from overspill.cli.finding import Finding, error, ok, warning
from overspill.errors import OverspillError
from overspill_agent.backend import docker_backend
from overspill_agent.config import AgentConfig, Docker

if TYPE_CHECKING:  # the SDK is an extra
    from overspill_agent.backends.docker.reading import EngineFacts


def engine(config: AgentConfig, docker: Docker) -> Iterator[Finding]:
    """Look at the engine, and change nothing in it."""
    try:
        facts = asyncio.run(_look(docker))
    except OverspillError as failure:
        yield error("container engine", failure.reason, "systemctl status docker; then correct [docker]")
        return
    yield ok("container engine", f"{docker.socket} answers and has the network {docker.network}")
    if not config.images:
        yield error("images", "the catalogue is empty: every job is refused", "add [images.NAME] with a reference")
    if docker.cpus > facts.machine.cpus:
        what = f"[docker] cpus offers {docker.cpus}, this host has {facts.machine.cpus}"
        yield warning("container engine: CPUs", what, "runs share CPUs then; offer what there is")
    if docker.memory_mib > facts.machine.memory_mib:
        what = f"[docker] memory_mib offers {docker.memory_mib}, this host has {facts.machine.memory_mib}"
        yield warning("container engine: memory", what, "runs may be killed for want of it; offer what there is")
    if not facts.has_live_restore:
        what = "a restart of the engine kills every run: their jobs are started again elsewhere"
        yield warning("container engine: restart", what, 'add "live-restore": true to /etc/docker/daemon.json')
    if docker.network == "host":
        what = "runs share this host's network, and reach what listens on its loopback address"
        yield warning("container engine: network", what, "docker network create overspill; name it in [docker] network")


async def _look(docker: Docker) -> EngineFacts:
    """Return what the engine is.

    Raises:
        OverspillError: nothing can run in this engine, or it is away.
    """
    backend = docker_backend(docker)
    try:
        return await backend.look()
    finally:
        await backend.close()
