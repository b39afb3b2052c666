"""The SPANK plugin's line in plugstack.conf: what makes a virtual node one."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from overspill.cli.finding import Finding, error, ok
from overspill_sidecar.commands.slurm_conf import Slurm
from overspill_sidecar.config import SidecarConfig
from overspill_sidecar.slurm_text import expand_hosts

_NAME = "spank_overspill.so"
_SUBJECT = "plugstack.conf"
_LINE = (
    "add the line of packaging/examples/plugstack.conf: required …/spank_overspill.so nodes=… python=… proxy=… socket=…"
)


@dataclass(frozen=True, slots=True)
class _Line:
    source: Path
    plugin: Path
    arguments: dict[str, str] = field(default_factory=dict)


def look(slurm: Slurm, config: SidecarConfig | None) -> Iterator[Finding]:
    """Look at the line and what it names."""
    path = Path(slurm.values.get("PlugStackConfig") or slurm.conf.with_name("plugstack.conf"))
    if not path.exists():
        yield error(_SUBJECT, f"{path} is not there, so diverted jobs would run on the virtual node's own host", _LINE)
        return
    lines = _overspill_lines(path)
    if not lines:
        yield error(
            _SUBJECT, f"{path} does not name {_NAME}: diverted jobs would run on the virtual node's host", _LINE
        )
        return
    if len(lines) > 1:
        sources = ", ".join(str(line.source) for line in lines)
        yield error(_SUBJECT, f"{_NAME} is named {len(lines)} times ({sources})", "leave one line")
    yield from _look_at_line(lines[0], slurm, config)


def _look_at_line(line: _Line, slurm: Slurm, config: SidecarConfig | None) -> Iterator[Finding]:
    problems = list(_missing_files(line, slurm))
    if not line.arguments:
        yield from problems or [ok(_SUBJECT, f"{line.source} names {line.plugin}, for --overspill only (no arguments)")]
        return
    problems += [
        error(f"{_SUBJECT}: {name}=", "it is missing, so the plugin refuses every job on these nodes", f"add {name}=…")
        for name in ("nodes", "python", "proxy", "socket")
        if name not in line.arguments
    ]
    if config is not None:
        problems += _mismatches(line, slurm, config)
    yield from problems or [ok(_SUBJECT, f"{line.source} names {line.plugin} for nodes {line.arguments['nodes']}")]


def _missing_files(line: _Line, slurm: Slurm) -> Iterator[Finding]:
    directories = [Path(part) for part in slurm.values.get("PluginDir", "").split(":") if part]
    candidates = [line.plugin] if line.plugin.is_absolute() else [part / line.plugin for part in directories]
    if not any(candidate.exists() for candidate in candidates):
        yield error(f"{_SUBJECT}: plugin", f"{line.plugin} is not there: batch jobs fail", "install slurm-overspill")
    for name, mode in (("python", os.X_OK), ("proxy", os.R_OK)):
        path = line.arguments.get(name)
        if path and not os.access(path, mode):
            what = f"{path} is not there, or cannot be used: every diverted job fails to start"
            yield error(
                f"{_SUBJECT}: {name}=", what, "correct the path; the node's other users must be able to read it"
            )


def _mismatches(line: _Line, slurm: Slurm, config: SidecarConfig) -> Iterator[Finding]:
    socket = line.arguments.get("socket")
    if socket and socket != str(config.relay.socket):
        what = f"the proxies call {socket}, the relay listens on {config.relay.socket}"
        yield error(f"{_SUBJECT}: socket=", what, "make plugstack.conf and [relay] socket in sidecar.toml agree")
    if "nodes" not in line.arguments:
        return
    try:
        named = set(expand_hosts(line.arguments["nodes"]))
    except ValueError as failure:
        yield error(f"{_SUBJECT}: nodes=", str(failure), "write a host list: ovs[1-4]")
        return
    for site in config.sites:
        virtual = set(virtual_nodes(slurm, site.partition, site.nodes))
        if unnamed := sorted(virtual - named):
            what = (
                f"it does not name {', '.join(unnamed)}, virtual nodes of {site.name}: their jobs would run on the host"
            )
            yield error(f"{_SUBJECT}: nodes=", what, "add them")
    real = {name for partition in slurm.snapshot.partitions.values() for name in partition.nodes} & named
    virtual = {name for site in config.sites for name in virtual_nodes(slurm, site.partition, site.nodes)}
    if wrong := sorted(real - virtual):
        what = f"it names {', '.join(wrong)}, which no site has: their jobs would wait for a site in vain"
        yield error(f"{_SUBJECT}: nodes=", what, "remove them")


def virtual_nodes(slurm: Slurm, partition: str, nodes: str) -> Sequence[str]:
    """Return a site's virtual nodes: those that sidecar.toml names, or all of its partition's."""
    if nodes:
        return expand_hosts(nodes)
    found = slurm.snapshot.partitions.get(partition)
    return found.nodes if found else ()


def _overspill_lines(path: Path) -> list[_Line]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines: list[_Line] = []
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if len(words) > 1 and words[0] == "include":
            for included in sorted(glob.glob(words[1])):  # noqa: PTH207 - Slurm's own pattern, absolute
                lines += _overspill_lines(Path(included))
        elif len(words) > 1 and Path(words[1]).name == _NAME:
            pairs = (word.partition("=") for word in words[2:])
            lines.append(_Line(path, Path(words[1]), {name: value for name, _, value in pairs}))
    return lines
