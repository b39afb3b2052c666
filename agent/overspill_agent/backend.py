"""Which back end agent.toml asks for."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from overspill.errors import AdminError, ConfigError
from overspill_agent.backends.base import Backend
from overspill_agent.backends.cgroups import Limits
from overspill_agent.backends.devices import Gpus
from overspill_agent.backends.htcondor import HtcondorBackend, HtcondorSite
from overspill_agent.backends.htcondor.site import Limits as HtcondorLimits
from overspill_agent.backends.htcondor.site import Meaning
from overspill_agent.backends.local import LocalBackend, LocalSite
from overspill_agent.backends.sandbox import Roots
from overspill_agent.config import DEFAULT_PATH, AgentConfig, Docker, Htcondor, Local
from overspill_agent.runs import LEASE_MARGIN_S, Resources

if TYPE_CHECKING:
    from overspill_agent.backends.docker import DockerBackend


def backend_of(config: AgentConfig) -> Backend:
    """Return the back end, not open yet.

    Raises:
        AdminError: it can never work on this host as it is configured.
    """
    if config.local is not None:
        return LocalBackend(_local_site(config, config.local))
    if config.docker is not None:
        return docker_backend(config.docker)
    if config.htcondor is not None:
        return HtcondorBackend(_htcondor_site(config, config.htcondor))
    raise ConfigError("no back end is configured")


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
        features=frozenset(local.features),
    )


def docker_backend(docker: Docker) -> DockerBackend:
    """Return the docker back end, as `backend_of`."""
    try:
        from overspill_agent.backends.docker import DockerBackend, DockerSite, Rules  # noqa: PLC0415  an extra of its own
    except ModuleNotFoundError as error:
        raise AdminError(f"[docker] needs the Python package {error.name}: install overspill[docker]") from error
    rules = Rules(
        agent=str(docker.directory),
        memory_mib=docker.memory_mib,
        network=docker.network,
        extra_hosts=docker.extra_hosts,
        pids_limit=docker.pids_limit,
        ulimits=docker.ulimits,
        log_mib=docker.log_mib,
        gpu_driver=docker.gpu_driver,
    )
    return DockerBackend(
        DockerSite(
            directory=docker.directory,
            resources=Resources(cpus=docker.cpus, memory_mib=docker.memory_mib, gpus=len(docker.gpus)),
            rules=rules,
            socket=docker.socket,
            runner=docker.runner,
            gpus=docker.gpus,
            gpu_type=docker.gpu_type,
            private=tuple(map(PurePosixPath, docker.private)),
            shared=tuple(map(PurePosixPath, docker.shared)),
            features=frozenset(docker.features),
        )
    )


def _htcondor_site(config: AgentConfig, section: Htcondor) -> HtcondorSite:
    """Return the HTCondor back end's part of the configuration."""
    return HtcondorSite(
        collector=section.collector,
        schedd=section.schedd,
        token_directory=section.token_directory,
        name=section.name,
        staging=config.store.path.parent / "htcondor",
        universe=section.universe,
        python=section.python,
        runner=section.runner,
        requirements=section.requirements,
        rank=section.rank,
        images_attribute=section.images_attribute,
        features={word: Meaning(feature.requirements, feature.rank) for word, feature in section.features.items()},
        image_words=frozenset(word for image in config.images.values() for word in image.features),
        gpu_types=section.gpu_types,
        commands=section.commands,
        disk_mib=section.disk_mib,
        limits=HtcondorLimits(
            start_within_s=section.start_within_s,
            held_within_s=section.held_within_s,
            job_lease_s=section.job_lease_s,
            overrun_s=section.overrun_s,
            fence_s=config.runner_channel.lease_s + LEASE_MARGIN_S,
        ),
        poll_s=section.poll_s,
        busy_poll_s=section.busy_poll_s,
        machines_poll_s=section.machines_poll_s,
    )
