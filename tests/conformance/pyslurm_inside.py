"""Asking a rig's Slurm by pyslurm from outside of it, as its sidecar does from inside."""

from __future__ import annotations

from pathlib import Path

from overspill_sidecar.slurm.readers import PYSLURM_ARGV
from tests.rig import Rig

#: The program that has pyslurm, inside a rig.
PYSLURM_PROCESS = f"/opt/overspill/lib/overspill_sidecar/slurm/{Path(PYSLURM_ARGV[-1]).name}"


def pyslurm_argv(rig: Rig) -> list[str]:
    """Return what runs that program as SlurmUser."""
    return rig.cluster.command(["/opt/overspill/venv/bin/python", "-I", PYSLURM_PROCESS], user="slurm", cwd="/")
