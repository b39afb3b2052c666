"""The agent's configuration file: what it may say, and what is wrong with one that says something else."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from overspill.errors import ConfigError
from overspill.metrics import MetricsSection
from overspill.runner_protocol import KEEPALIVE_S
from overspill.tls import TlsFiles

DEFAULT_PATH = Path("/etc/overspill/agent.toml")
#: Names another file than `DEFAULT_PATH`.
PATH_VARIABLE = "OVERSPILL_AGENT_CONFIG"
DEFAULT_RUNNER = Path(__file__).resolve().parent.parent / "overspill_runner" / "runner.py"


def _split_listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 2**16):
        raise ValueError('write "address:port", for example "0.0.0.0:7443"')
    return value


def _be_absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError("write an absolute path without `..`")
    return path


def _be_https(value: str) -> str:
    if not value.startswith("https://") or value.endswith("/"):
        raise ValueError('write "https://name:port", as runners reach this agent')
    return value


Listen = Annotated[str, AfterValidator(_split_listen)]
AbsolutePath = Annotated[Path, AfterValidator(_be_absolute)]
HttpsUrl = Annotated[str, AfterValidator(_be_https)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """PEM files."""

    certificate: AbsolutePath
    private_key: AbsolutePath
    ca: AbsolutePath

    def files(self) -> TlsFiles:
        return TlsFiles(certificate=self.certificate, private_key=self.private_key, ca=self.ca)


class Server(_Section):
    """The gRPC service for clusters' relays. Without `tls` it has the certificate of the site's own authority."""

    listen: Listen
    tls: Tls | None = None


class RunnerChannel(_Section):
    """The HTTPS service for runners.

    Attributes:
        url: how runners reach it; the host must be a name in the certificate.
        lease_s: a runner that hears nothing of the agent for so long stops its job. With the time that takes it must
            stay below the 120 s after which Slurm may start a requeued job again.
        tls: as for `Server`.
    """

    listen: Listen
    url: HttpsUrl
    tls: Tls | None = None
    lease_s: int = Field(default=90, gt=2 * KEEPALIVE_S)


class Pki(_Section):
    """The site's own authority, which `overspill pki init` makes.

    Attributes:
        directory: where it is; the agent renews its own certificate there.
        certificate_life_s: how long a certificate is valid that it issues; the holder renews it after two thirds.
    """

    directory: AbsolutePath = Path("/var/lib/overspill-agent/pki")
    certificate_life_s: int = Field(default=30 * 86_400, ge=15, le=398 * 86_400)

    @property
    def agent_files(self) -> TlsFiles:
        """What the agent shows, and what it trusts. Certificate and key are one file, replaced in one step."""
        agent = self.directory / "agent.pem"
        return TlsFiles(certificate=agent, private_key=agent, ca=self.directory / "ca.pem")


class StoreSection(_Section):
    """Where the agent's memory is. Output and standard input are kept in `spool` beside it.

    Attributes:
        path: the database; its directory is the agent's own.
        reserve_mib: disk space that neither new runs nor output may take: what ends and frees runs is written there.
    """

    path: AbsolutePath
    reserve_mib: int = Field(default=64, ge=1)

    @property
    def spool_directory(self) -> Path:
        return self.path.parent / "spool"


class Local(_Section):
    """The backend that runs jobs on the agent's own host.

    Attributes:
        directory: one directory per run; on a local file system (it is locked with flock).
        private: directories of which each run has its own, empty one.
        shared: directories that are the same here as at the cluster; runs may write there.
        python: the interpreter that runs the runner, at least 3.8.
        runner: the runner's file.
    """

    directory: AbsolutePath
    cpus: int = Field(gt=0)
    memory_mib: int = Field(gt=0)
    gpus: int = Field(default=0, ge=0)
    private: tuple[AbsolutePath, ...] = (Path("/home"), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108
    shared: tuple[AbsolutePath, ...] = ()
    python: AbsolutePath = Path("/usr/bin/python3")
    runner: AbsolutePath = DEFAULT_RUNNER

    @model_validator(mode="after")
    def _roots_are_apart(self) -> Local:
        for root in (*self.private, *self.shared):
            if root == Path("/"):
                raise ValueError("`/` can be neither private nor shared; name directories below it")
            for other in (*self.private, *self.shared):
                if other != root and other.is_relative_to(root):
                    raise ValueError(f"{other} lies in {root}; name only one of them in `private` and `shared`")
        if set(self.private) & set(self.shared):
            raise ValueError("a directory is either in `private` or in `shared`")
        if any(self.python.is_relative_to(root) for root in self.private):
            raise ValueError(f"python {self.python} lies in a private directory, where runs cannot see it")
        return self


class AgentConfig(_Section):
    """All of agent.toml. `accounts` maps a cluster's users to accounts here; who is not listed is refused."""

    server: Server
    runner_channel: RunnerChannel
    store: StoreSection
    local: Local
    metrics: MetricsSection = MetricsSection()
    accounts: dict[str, dict[str, str]] = Field(default_factory=dict)
    pki: Pki = Pki()

    def server_files(self) -> TlsFiles:
        """Return what the gRPC service shows and trusts."""
        return self.server.tls.files() if self.server.tls else self.pki.agent_files

    def runner_files(self) -> TlsFiles:
        """Return what the HTTPS service for runners shows, and the authority that runners trust."""
        return self.runner_channel.tls.files() if self.runner_channel.tls else self.pki.agent_files


def parse(text: str, source: str) -> AgentConfig:
    """Return the configuration in `text`.

    Args:
        text: TOML.
        source: the file's name, for messages.

    Raises:
        ConfigError: names the file, each wrong key, and what to write.
    """
    try:
        return AgentConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {line}" for line in _explain(error))) from error


def configured_path() -> Path:
    """Return where the configuration is, as far as this process is told."""
    return Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path) -> AgentConfig:
    """Return the configuration in the file `path`.

    Raises:
        ConfigError: if it cannot be read or is wrong; see `parse`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; name another with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; TOML must be") from error
    return parse(text, str(path))


_ADVICE = {
    "missing": "this key is missing; add it",
    "extra_forbidden": "there is no such key; remove it or correct its name",
}


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for detail in error.errors(include_url=False):
        *sections, key = [str(part) for part in detail["loc"]] or [""]
        where = f"[{'.'.join(sections)}] {key}" if sections else f"[{key}]"
        what = _ADVICE.get(detail["type"], detail["msg"].removeprefix("Value error, "))
        lines.append(f"{where}: {what}")
    return lines
