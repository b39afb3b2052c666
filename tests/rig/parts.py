"""Overspill's parts: which of them a rig has, and how they get from the checkout into the hosts.

The checkout itself is invisible inside the hosts: it may lie where users cannot read, and no cluster has one.
"""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path

from tests.rig.errors import RigError

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = CHECKOUT / ".venv"
_PACKAGES = (
    "proto/overspill",
    "slurm_plugin/overspill_sidecar",
    "slurm_plugin/overspill_proxy",
    "agent/overspill_agent",
    "agent/overspill_runner",
)
#: What starts once per job.
PRECOMPILED = ("overspill", "overspill_proxy", "overspill_runner")
_JOB_SUBMIT = CHECKOUT / "slurm_plugin/job_submit"


class Part(StrEnum):
    """A part of Overspill that a rig can do without; without any, the rig is a plain Slurm and an empty site."""

    JOB_SUBMIT = "job-submit"
    SPANK = "spank"
    SIDECAR = "sidecar"
    AGENT = "agent"


ALL_PARTS = frozenset(Part)


def stage_packages(lib: Path) -> None:
    """Copy the Python packages side by side into `lib`."""
    for package in _PACKAGES:
        source = CHECKOUT / package
        if source.is_dir():
            shutil.copytree(source, lib / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    # What entry points the packages have, for whatever interpreter.
    (metadata,) = VENV.glob("lib/python*/site-packages/overspill-*.dist-info")
    shutil.copytree(metadata, lib / metadata.name)
    make_readable(lib)


def stage_command(directory: Path) -> None:
    """Write the command `overspill`, as a package installs it."""
    directory.mkdir(parents=True)
    command = directory / "overspill"
    command.write_text(
        '#!/bin/sh\nPYTHONPATH=/opt/overspill/lib exec /opt/overspill/venv/bin/python -m overspill.cli "$@"\n'
    )
    command.chmod(0o755)


def stage_job_submit(lua_directory: Path, slurm_directory: Path) -> None:
    """Copy the Lua modules to where Lua 5.1 finds them and job_submit.lua beside slurm.conf.

    Raises:
        RigError: if the checkout has none.
    """
    script = _JOB_SUBMIT / "job_submit.lua"
    if not script.exists():
        raise RigError(f"{script} is missing; bring the rig up without the part {Part.JOB_SUBMIT}")
    lua_directory.mkdir(parents=True)
    for module in (_JOB_SUBMIT / "overspill", _JOB_SUBMIT / "overspill.lua"):
        if module.is_dir():
            shutil.copytree(module, lua_directory / module.name)
        elif module.exists():
            shutil.copy2(module, lua_directory)
    shutil.copy2(script, slurm_directory)
    make_readable(lua_directory)
    make_readable(slurm_directory)


def stage_spank(plugin: Path, directory: Path) -> None:
    """Copy the compiled SPANK plugin.

    Raises:
        RigError: if it has not been built.
    """
    if not plugin.exists():
        raise RigError(f"{plugin} is missing: run `make setup`, or bring the rig up without the part {Part.SPANK}")
    shutil.copy2(plugin, directory)
    make_readable(directory)


def make_readable(directory: Path) -> None:
    """Let everybody read what is in `directory`, whatever umask the checkout was made with."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
