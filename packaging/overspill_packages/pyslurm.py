"""What overspill-pyslurm brings along: pyslurm for one Slurm, compiled once and for all, and its source."""

from __future__ import annotations

import shutil
from pathlib import Path

from overspill_packages.description import Facts
from overspill_packages.environment import PREFIX, compile_all
from overspill_pyslurm import building

#: The package that has it, which a build can go without.
PACKAGE = "overspill-pyslurm"


def build(libraries: Path, source: Path, target: building.Target, facts: Facts) -> None:
    """Make what belongs among the environment's libraries in `libraries`, and what its licence wants in `source`.

    Raises:
        ChildProcessError: with the end of what the failed command said.
        OtherSourceError: what the index has is not the pyslurm that the recipe was written for.
    """
    libraries.mkdir()
    recipe = Path(building.__file__).parent
    shutil.copytree(recipe, source / recipe.name, ignore=shutil.ignore_patterns("__pycache__"))
    building.build(target, libraries, archive_to=source)
    compile_all(libraries, built_below=libraries, installed_below=PREFIX / f"lib/python{facts.python}/site-packages")
