"""The agent's configuration file: what it may say, and what is wrong with one that says something else."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from overspill.errors import ConfigError
from overspill.metrics import MetricsSection
from overspill.tls import TlsFiles
from overspill_agent.config.catalogue import Images
from overspill_agent.config.clusters import ClusterSection
from overspill_agent.config.docker import Docker
from overspill_agent.config.htcondor import Htcondor
from overspill_agent.config.local import Local
from overspill_agent.config.section import Section
from overspill_agent.config.services import Pki, Reconcile, RunnerChannel, Server, StoreSection

DEFAULT_PATH = Path("/etc/overspill/agent.toml")
#: Names another file than `DEFAULT_PATH`.
PATH_VARIABLE = "OVERSPILL_AGENT_CONFIG"
#: Sections of which exactly one must be there.
_BACKENDS = ("local", "docker", "htcondor")


class AgentConfig(Section):
    """All of agent.toml. One back end has a section, and so it is the one in use.

    `accounts` maps a cluster's users to accounts here; who is not listed is refused. `clusters` limits some of them.
    """

    server: Server
    runner_channel: RunnerChannel
    store: StoreSection
    reconcile: Reconcile = Reconcile()
    local: Local | None = None
    docker: Docker | None = None
    htcondor: Htcondor | None = None
    images: Images = Field(default_factory=dict)
    metrics: MetricsSection = MetricsSection()
    accounts: dict[str, dict[str, str]] = Field(default_factory=dict)
    clusters: dict[str, ClusterSection] = Field(default_factory=dict)
    pki: Pki = Pki()

    @model_validator(mode="after")
    def _one_back_end(self) -> AgentConfig:
        if len(self._backends()) != 1:
            have = ", ".join(self._backends())
            what = f"{have} are all configured" if have else "no back end is configured"
            raise ValueError(f"{what}; have one of {', '.join(f'[{name}]' for name in _BACKENDS)}")
        return self

    @model_validator(mode="after")
    def _images_are_of_use(self) -> AgentConfig:
        if self.local is not None and self.images:
            raise ValueError("[images] are of no use to [local], whose jobs run on the host itself; remove one of them")
        return self

    @model_validator(mode="after")
    def _clusters_have_accounts(self) -> AgentConfig:
        if strangers := sorted(set(self.clusters) - set(self.accounts)):
            raise ValueError(f"[clusters] limits {', '.join(strangers)}, to which no [accounts] let anybody in")
        return self

    @property
    def backend(self) -> str:
        """The name of the back end in use, which is its section's."""
        return self._backends()[0]

    def _backends(self) -> list[str]:
        return [name for name in _BACKENDS if getattr(self, name) is not None]

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
