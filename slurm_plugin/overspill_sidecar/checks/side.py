"""The cluster's side as a whole: what is looked at, and what is left out where something else is missing."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

from overspill.cli.certificates import check_certificates
from overspill.cli.finding import Finding, Side, error, ok, warning
from overspill.errors import OverspillError
from overspill.metrics.check import check_metrics
from overspill_sidecar.checks import cluster_wide, daemons, hook, nodes, policy, spank
from overspill_sidecar.commands.slurm_conf import Slurm, ask_slurm
from overspill_sidecar.config import SidecarConfig, configured_path, load

_DEADLINE_S = 10.0


def look(path: Path) -> Iterator[Finding]:
    """Look at everything on this side."""
    if os.geteuid() != 0:
        yield warning("rights", "without root's rights not everything can be seen", "run overspill check as root")
    config = yield from _configuration(path)
    slurm = yield from _slurm()
    if slurm is not None:
        yield from _munge(slurm)
        yield from cluster_wide.look(slurm, config)
        yield from hook.look(slurm, config)
        yield from spank.look(slurm, config)
    if config is not None:
        yield from _certificates(config, slurm)
        contacts = yield from daemons.look(config)
        yield from _metrics(config)
    if config is not None and slurm is not None:
        yield from policy.look(slurm, config)
        yield from nodes.look(slurm, config, {name: site.total_cpus for name, site in contacts.items()})


CLUSTER = Side("cluster", configured_path, look)


def _configuration(path: Path) -> Generator[Finding, None, SidecarConfig | None]:
    try:
        config = load(path)
        mode = path.stat().st_mode
    except OverspillError as failure:
        for reason in failure.reason.split("; "):
            yield error("sidecar.toml", reason, f"see packaging/examples/sidecar.toml; {path} is read by both daemons")
        return None
    except OSError as failure:
        yield error("sidecar.toml", f"cannot look at {path}: {failure.strerror}")
        return None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield error(
            "sidecar.toml", f"{path} is writable for others, who could send jobs anywhere", f"chmod go-w {path}"
        )
    else:
        yield ok("sidecar.toml", f"{path} is valid; sites: {', '.join(site.name for site in config.sites)}")
    return config


def _slurm() -> Generator[Finding, None, Slurm | None]:
    try:
        slurm = ask_slurm()
    except OverspillError as failure:
        yield error("slurmctld", f"it does not answer: {failure.reason}", "is it running? then see its log; is munge?")
        return None
    version, cluster = slurm.values.get("SLURM_VERSION", "of unknown version"), slurm.snapshot.config.cluster_name
    yield ok("slurmctld", f"cluster {cluster} answers, Slurm {version}")
    return slurm


def _munge(slurm: Slurm) -> Iterator[Finding]:
    if slurm.values.get("AuthType") != "auth/munge":
        return
    try:
        made = subprocess.run(["munge", "-n"], capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as failure:
        yield warning("munge", f"cannot be tried: {failure}")
        return
    if made.returncode:
        yield error("munge", f"it makes no credential: {made.stderr.strip()}", "systemctl restart munge")
    else:
        yield ok("munge", "it makes credentials")


def _metrics(config: SidecarConfig) -> Iterator[Finding]:
    """Look at the router's, and on a host that has none at the relay's."""
    section = config.metrics
    is_relay_alone = not config.router.socket.exists()
    listen = (section.relay_listen if is_relay_alone else None) or section.listen
    yield from check_metrics(listen, has_tls=section.tls is not None)


def _certificates(config: SidecarConfig, slurm: Slurm | None) -> Iterator[Finding]:
    owners = {slurm.user_id} if slurm is not None else {0, os.geteuid()}
    names = {slurm.snapshot.config.cluster_name} if slurm is not None else set()
    for site in config.sites:
        yield from check_certificates(f"site {site.name}", site.tls_files, names, owners)
