"""The Slurm releases that a rig's cluster can have, and what the rig must know of each. Data, and its reading."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.rig.errors import RigError

#: Chooses the release of every rig that is not asked to be of another: `make test-slurm SLURM=24.11` sets it.
VARIABLE = "RIG_SLURM"


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Slurm, by year and month: "24.11"."""

    name: str
    #: The Debian that has it, None: this machine's own, whatever Slurm that has.
    suite: str | None = None
    #: What cgroup.conf says: without it slurmd looks for cgroups, which a container often cannot give.
    cgroup_conf: str = ""


#: Debian 12, 13 and testing. 22.05 knows no `disabled`, and needs none.
RELEASES = {
    release.name: release
    for release in (
        Release("22.05"),
        Release("24.11", suite="trixie", cgroup_conf="CgroupPlugin=disabled\n"),
        Release("26.05", suite="forky", cgroup_conf="CgroupPlugin=disabled\n"),
    )
}
THIS_MACHINES = RELEASES["22.05"]


def named(name: str | None) -> Release:
    """Return the release of this name; None stands for the one that the environment names, or this machine's.

    Raises:
        RigError: there is no such release.
    """
    chosen = name if name is not None else os.environ.get(VARIABLE, THIS_MACHINES.name)
    if chosen not in RELEASES:
        raise RigError(f"no rig can be of Slurm {chosen}: choose {', '.join(RELEASES)}")
    return RELEASES[chosen]
