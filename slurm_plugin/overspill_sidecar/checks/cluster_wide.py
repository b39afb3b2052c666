"""Settings of slurm.conf's that are not ours, but change what happens to diverted jobs."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator

from overspill.cli.finding import Finding, error, ok, warning
from overspill_sidecar.commands.slurm_conf import Slurm
from overspill_sidecar.config import SidecarConfig

#: The oldest release that Overspill was seen on.
_OLDEST = (22, 5)


def look(slurm: Slurm, config: SidecarConfig | None) -> Iterator[Finding]:
    """Look at version, controllers' names, limits, kill times and tasks' programs."""
    yield from _look_at_version(slurm.values.get("SLURM_VERSION", ""))
    if config is not None and config.router.socket.exists():
        yield from _look_at_controllers(slurm)
    limits = slurm.values.get("EnforcePartLimits", "NO")
    yield ok(
        "slurm.conf: EnforcePartLimits", f"it says {limits}; the router looks at a site's limits before it diverts"
    )
    if (kill_wait_s := slurm.snapshot.config.kill_wait_s) < 1:
        what = f"it is {kill_wait_s} s: a cancelled job has no time to end by itself, at home or at a site"
        yield warning("slurm.conf: KillWait", what, "30 s is Slurm's default")
    yield from _look_at_programs(slurm)
    if slurm.values.get("SelectType", "").endswith("linear"):
        what = "select/linear gives whole nodes, so a site would take one job at a time"
        yield error("slurm.conf: SelectType", what, "select/cons_tres shares nodes; Overspill is of no use without")


def _look_at_controllers(slurm: Slurm) -> Iterator[Finding]:
    """Of several controllers' routers that of the acting one changes pending jobs: it must know its own name."""
    if slurm.snapshot.config.acting_controller and not slurm.is_controller_here:
        yield warning(
            "slurm.conf: SlurmctldHost",
            f"none of its names is this host's ({socket.gethostname()}), so its router never looks at pending jobs",
            "name each controller as `hostname` does there, with an address behind it: SlurmctldHost=ctl1(10.0.0.1)",
        )


def _look_at_programs(slurm: Slurm) -> Iterator[Finding]:
    """A diverted job gets both on its virtual node's host, as a local one on its node."""
    for word in ("TaskProlog", "TaskEpilog"):
        subject, path = f"slurm.conf: {word}", slurm.values.get(word)
        if path and os.access(path, os.X_OK):
            yield ok(subject, f"{path} runs for diverted jobs, too, on the virtual nodes' host")
        elif path:
            what = f"{path} cannot be executed on this host: if virtual nodes are here, their jobs go without it"
            yield warning(subject, what, "put it on the virtual nodes' host, as on every node")


def _look_at_version(text: str) -> Iterator[Finding]:
    match = re.match(r"(\d+)\.(\d+)", text)
    if match and (int(match[1]), int(match[2])) < _OLDEST:
        yield warning("slurmctld: version", f"Overspill was never tried on Slurm {text}", "22.05 and later are tested")
