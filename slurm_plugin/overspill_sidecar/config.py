"""`/etc/overspill/sidecar.toml`: sockets, sites, certificates. What is routing policy is in slurm.conf instead."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from overspill.errors import ConfigError
from overspill.metrics import MetricsSection
from overspill.metrics.section import ListenAddress
from overspill.tls import TlsFiles
from overspill_sidecar.enrolled import Enrolled
from overspill_sidecar.slurm_text import expand_hosts

DEFAULT_PATH = Path("/etc/overspill/sidecar.toml")
#: Names another file than `DEFAULT_PATH`.
PATH_VARIABLE = "OVERSPILL_SIDECAR_CONFIG"


def _must_be_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("write an absolute path: a service has no working directory of its own")
    return path


_AbsolutePath = Annotated[Path, AfterValidator(_must_be_absolute)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reader(StrEnum):
    """Who reads the queue."""

    #: pyslurm where it fits the Slurm, else the command line.
    AUTO = "auto"
    COMMAND_LINE = "command-line"
    PYSLURM = "pyslurm"


class SlurmConfig(_Section):
    reader: Reader = Reader.AUTO
    refresh_s: float = Field(default=5.0, ge=0.2, le=300)
    #: A command of Slurm that takes longer has failed.
    #: Associations and QOS are a record for each user, whether he uses the cluster or not: asked less often.
    accounting_refresh_s: float = Field(default=30.0, ge=0.2, le=3600)
    command_deadline_s: float = Field(default=10.0, gt=0, le=120)


class RouterConfig(_Section):
    socket: _AbsolutePath = Path("/run/overspill/router.sock")
    #: Where `overspill status` and `overspill explain` ask; by default `router-admin.sock` beside `socket`.
    admin_socket: _AbsolutePath | None = None
    #: The file that remembers decisions, and how many.
    records: _AbsolutePath = Path("/var/lib/overspill/decisions.db")
    keep_records: int = Field(default=100_000, ge=100)
    #: The file that remembers what each account's diverted jobs have had today.
    accounts: _AbsolutePath = Path("/var/lib/overspill/accounts.db")
    #: The file that keeps what the wait model has learned, and how many jobs it must have seen to be asked.
    waits: _AbsolutePath = Path("/var/lib/overspill/waits.state")
    learned_after_jobs: int = Field(default=500, ge=1)
    #: How long capacity stays promised to a decision whose job does not appear.
    promise_s: float = Field(default=30.0, gt=0, le=600)
    #: Between two looks at pending jobs: who is let go to a site after all, or called back.
    late_every_s: float = Field(default=10.0, ge=0.5, le=3600)

    @property
    def admin_path(self) -> Path:
        return self.admin_socket or self.socket.with_name("router-admin.sock")


class RelayConfig(_Section):
    socket: _AbsolutePath = Path("/run/overspill/relay.sock")
    #: Where `overspill jobs` and `overspill logs` ask; by default `relay-admin.sock` beside `socket`.
    admin_socket: _AbsolutePath | None = None
    #: The file that remembers what happened to jobs, and how many such events.
    records: _AbsolutePath = Path("/var/lib/overspill/events.db")
    keep_records: int = Field(default=100_000, ge=100)
    #: How long a job waits for a site that never answered before it goes home.
    unreachable_grace_s: float = Field(default=60.0, ge=0)
    reconcile_s: float = Field(default=30.0, ge=0.2)

    @property
    def admin_path(self) -> Path:
        return self.admin_socket or self.socket.with_name("relay-admin.sock")


class HealthConfig(_Section):
    """When a site's virtual nodes are drained, and when they are used again."""

    drain_after_s: float = Field(default=10.0, ge=0)
    resume_after_s: float = Field(default=10.0, ge=0)
    #: How long a site that fails its jobs is left alone at first; after each try that fails twice as long, up to 1 h.
    first_pause_s: float = Field(default=60.0, gt=0)


class TlsConfig(_Section):
    certificate: _AbsolutePath
    private_key: _AbsolutePath
    ca: _AbsolutePath

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(self.certificate, self.private_key, self.ca)


#: Where `overspill enroll` puts what it gets, a directory for each site; the sidecar renews it there.
STATE_DIRECTORY = Path("/var/lib/overspill/pki")


class SiteConfig(_Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    #: The partition whose virtual nodes stand for this site; one each, so that Decide's choice of a site is binding.
    partition: str = Field(min_length=1)
    #: The agent's host:port.
    agent: str = Field(pattern=r"^\S+:\d{1,5}$")
    #: Virtual nodes, a Slurm host list; empty: all nodes of the partition.
    nodes: str = ""
    #: Files that somebody else makes and renews; without it, what `overspill enroll` got in `pki_directory`.
    tls: TlsConfig | None = None
    pki_directory: _AbsolutePath | None = None
    poll_s: float = Field(default=2.0, ge=0.1, le=60)
    #: What a CPU-hour costs, in whatever unit: only which site is dearer counts.
    price_per_cpu_hour: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    #: A run whose relay the agent has not heard for so long ends as a node failure, and Slurm may start the job again.
    lease_s: int = Field(default=3600, ge=1)
    #: How long after that the run is certainly dead: the site's own lease with its runners, and clocks.
    lease_margin_s: float = Field(default=300.0, ge=0)

    @property
    def enrolled(self) -> Enrolled | None:
        """What was enrolled with this site, and is ours to renew; None if somebody else makes the certificates."""
        return None if self.tls else Enrolled(self.pki_directory or STATE_DIRECTORY / self.name)

    @property
    def tls_files(self) -> TlsFiles:
        return self.tls.files if self.tls else Enrolled(self.pki_directory or STATE_DIRECTORY / self.name).files

    @field_validator("nodes")
    @classmethod
    def _must_be_host_list(cls, value: str) -> str:
        expand_hosts(value)
        return value

    def virtual_nodes(self, nodes_of_partition: Iterable[str]) -> tuple[str, ...]:
        """Return the names of this site's virtual nodes: those in `nodes`, or else all of its partition."""
        return expand_hosts(self.nodes) if self.nodes else tuple(nodes_of_partition)


class MetricsConfig(MetricsSection):
    """`listen` is the router's, or that of the one process that is both; `relay_listen` a relay's of its own."""

    relay_listen: ListenAddress | None = None

    def addresses(self) -> tuple[str, ...]:
        return tuple(listen for listen in (self.listen, self.relay_listen) if listen)


class SidecarConfig(_Section):
    slurm: SlurmConfig = SlurmConfig()
    router: RouterConfig = RouterConfig()
    relay: RelayConfig = RelayConfig()
    health: HealthConfig = HealthConfig()
    metrics: MetricsConfig = MetricsConfig()
    sites: tuple[SiteConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sites_must_differ(self) -> Self:
        if taken := {site.name for site in self.sites} & {"auto", "never", "always"}:
            raise ValueError(f"no site can be called {taken.pop()}: --overspill means something else by it")
        for what in ("name", "partition"):
            values = [getattr(site, what) for site in self.sites]
            if len(set(values)) < len(values):
                raise ValueError(f"two sites have the same {what}: give each its own")
        return self


def configured_path() -> Path:
    """Return where the configuration is, as far as this process is told."""
    return Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path) -> SidecarConfig:
    """Read the file.

    Raises:
        ConfigError: if it cannot be read or says something impossible; names the file, each key, and what to write.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    try:
        return SidecarConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(f"{path}: {line}" for line in _complaints(error))) from error


def _complaints(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        message = {"extra_forbidden": "no such key: check its spelling, or remove it", "missing": "is missing: add it"}
        lines.append(
            f"{key or 'the file'}: {message.get(problem['type'], problem['msg'].removeprefix('Value error, '))}"
        )
    return lines
