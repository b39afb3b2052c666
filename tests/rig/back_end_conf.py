"""The sections of agent.toml that say where the site runs jobs. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tests.rig import condor, engine
from tests.rig.options import RigOptions
from tests.rig.site_backend import SiteBackend


def sections(options: RigOptions, *, state: str, images: Mapping[str, str]) -> str:
    """Return the back end's section and its images.

    Args:
        options: with a shared home a run sees the cluster's /home instead of an empty private one.
        state: the agent's own directory.
        images: references by name; the first is what jobs run in.
    """
    catalogue = "".join(
        _image(name, reference, is_default=name == next(iter(images))) for name, reference in images.items()
    )
    match options.backend:
        case SiteBackend.LOCAL:
            return _local(options, state)
        case SiteBackend.DOCKER:
            return _docker(options, state) + catalogue
        case SiteBackend.HTCONDOR:
            return _htcondor() + catalogue


def _local(options: RigOptions, state: str) -> str:
    cluster = options.cluster
    return f"""\
[local]
directory = "{state}/runs"
cpus = {cluster.site_cpus}
memory_mib = {cluster.site_memory_mib}
gpus = {cluster.gpus}
gpu_type = "{cluster.gpu_type}"
private = {_strings((*_private(options), "/dev/shm"))}
shared = {_strings(_shared(options))}
python = "/usr/bin/python3"
"""


def _docker(options: RigOptions, state: str) -> str:
    cluster = options.cluster
    return f"""\
[docker]
directory = "{state}/runs"
socket = "unix://{engine.SOCKET}"
cpus = {cluster.site_cpus}
memory_mib = {cluster.site_memory_mib}
private = {_strings(_private(options))}
shared = {_strings(_shared(options))}
"""


def _htcondor() -> str:
    return f"""\
[htcondor]
collector = "{condor.COLLECTOR}"
schedd = "{condor.SCHEDD}"
token_directory = "{condor.TOKENS}"
name = "rig"
images_attribute = "{condor.IMAGES_ATTRIBUTE}"
"""


def _image(name: str, reference: str, *, is_default: bool) -> str:
    return f"""
[images.{name}]
reference = "{reference}"
{"default = true" if is_default else ""}
"""


def _private(options: RigOptions) -> tuple[str, ...]:
    return ("/tmp", "/var/tmp") if options.has_shared_home else ("/home", "/tmp", "/var/tmp")


def _shared(options: RigOptions) -> tuple[str, ...]:
    return ("/home",) if options.has_shared_home else ()


def _strings(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
