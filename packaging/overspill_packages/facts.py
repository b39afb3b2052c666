"""What the build finds out about its machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from overspill import __version__
from overspill_packages.description import Facts

#: The packages run on this interpreter, wherever they are installed.
SYSTEM_PYTHON = Path("/usr/bin/python3")


def find(slurm_include: Path) -> Facts:
    """Return the facts.

    Raises:
        ValueError: the Slurm headers do not tell their version, or SOURCE_DATE_EPOCH is not set.
    """
    if "SOURCE_DATE_EPOCH" not in os.environ:
        raise ValueError("SOURCE_DATE_EPOCH is not set: `make packages` sets it")
    release = slurm_release((slurm_include / "slurm/slurm_version.h").read_text(encoding="utf-8"))
    return Facts(
        version=__version__,
        epoch_s=int(os.environ["SOURCE_DATE_EPOCH"]),
        python=_output(str(SYSTEM_PYTHON), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"),
        slurm=f"{release[0]}.{release[1]:02d}",
        slurm_next=f"{release[0]}.{release[1] + 1:02d}",
        architecture=_output("dpkg", "--print-architecture"),
    )


def slurm_release(header: str) -> tuple[int, int]:
    """Return year and month of the release from slurm_version.h; a plugin fits all its maintenance versions.

    Raises:
        ValueError: the version is not in it.
    """
    number = re.search(r"^#define\s+SLURM_VERSION_NUMBER\s+(0x[0-9a-fA-F]{6})\b", header, re.MULTILINE)
    if number is None:
        raise ValueError("slurm_version.h has no SLURM_VERSION_NUMBER: name another directory with --slurm-include")
    value = int(number[1], 16)
    return value >> 16, value >> 8 & 0xFF


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
