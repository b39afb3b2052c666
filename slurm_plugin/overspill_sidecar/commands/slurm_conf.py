"""What checks and `overspill nodes` want of Slurm: its whole configuration and its state, asked once."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overspill.errors import UnavailableError
from overspill_sidecar.cluster import Snapshot
from overspill_sidecar.slurm import CommandLineView, queries
from overspill_sidecar.slurm.process import run

_DEADLINE_S = 10.0
_USER = re.compile(r"(.+)\((\d+)\)")
_CONTROLLER = re.compile(r"SlurmctldHost(?:\[\d+\])?")


@dataclass(frozen=True, slots=True)
class Slurm:
    #: `scontrol show config`, by key; "" for what is not set.
    values: Mapping[str, str]
    snapshot: Snapshot
    #: Of each node: `scontrol show node`, by key.
    nodes: Mapping[str, Mapping[str, str]]

    @property
    def conf(self) -> Path:
        """slurm.conf, as slurmctld knows it."""
        return Path(self.values.get("SLURM_CONF") or "/etc/slurm/slurm.conf")

    @property
    def user_id(self) -> int:
        """SlurmUser's."""
        match = _USER.fullmatch(self.values.get("SlurmUser", ""))
        return int(match[2]) if match else 0

    @property
    def is_controller_here(self) -> bool:
        """Whether slurmctld, or a backup of it, belongs on this host."""
        names = {value.partition("(")[0] for key, value in self.values.items() if _CONTROLLER.fullmatch(key)}
        return bool({name.partition(".")[0] for name in names} & {socket.gethostname().partition(".")[0], "localhost"})

    def has(self, key: str, word: str) -> bool:
        """Tell whether a comma separated list of slurm.conf's has the word."""
        return word in self.values.get(key, "").replace(" ", "").split(",")


def ask_slurm() -> Slurm:
    """Return what slurmctld says.

    Raises:
        UnavailableError: if it does not answer.
    """
    return asyncio.run(_ask_slurm())


async def _ask_slurm() -> Slurm:
    snapshot = await CommandLineView(_DEADLINE_S).snapshot()
    config = await _text(queries.config_argv())
    nodes = [dict(_pairs(line)) for line in (await _text(queries.nodes_argv())).splitlines() if line.strip()]
    return Slurm(parse_config_values(config), snapshot, {node.get("NodeName", ""): node for node in nodes})


def parse_config_values(text: str) -> dict[str, str]:
    """Return what `scontrol show config` prints, by key."""
    pairs = (line.partition(" = ") for line in text.splitlines())
    return {key.strip(): "" if value.strip() == "(null)" else value.strip() for key, equals, value in pairs if equals}


def _pairs(line: str) -> list[tuple[str, str]]:
    # The reason, free text, stands at the end: the first of a key counts.
    return list(reversed(re.findall(r"(?:^|\s)([A-Za-z]\w*)=(\S*)", line)))


async def _text(argv: list[str]) -> str:
    output = await run(argv, _DEADLINE_S)
    if output.status != 0:
        raise UnavailableError(f"{argv[0]}: {output.stderr.strip()}")
    return output.stdout
