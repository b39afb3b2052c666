"""The Python environment that overspill-common brings along: Debian's own gRPC is years too old.

It is made of requirements.lock beside packages.toml, whose hashes decide what is taken from whatever index this machine
is set up for. Nothing in it names the directory in which it was built.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from overspill_packages.description import Facts
from overspill_packages.facts import SYSTEM_PYTHON

#: Where the environment is once it is installed.
PREFIX = Path("/usr/lib/overspill/venv")
#: What says only where and how a library was installed.
_INSTALLERS_NOTES = ("RECORD", "direct_url.json", "REQUESTED", "uv_cache.json")

_LAUNCHER = """\
#!{prefix}/bin/python -I
from {module} import main

main()
"""
_COMMANDS = {
    "overspill": "overspill.cli",
    "overspill-sidecar": "overspill_sidecar.cli",
    "overspill-agent": "overspill_agent.cli",
}


def build(checkout: Path, target: Path, facts: Facts) -> None:
    """Make the environment in `target`, with all of our own Python code and compiled."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", target], check=True)
    python = target / "bin/python"
    lock = checkout / "packaging/requirements.lock"
    _uv("sync", "--python", python, "--require-hashes", lock)
    wheels = target.with_name("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", wheels],
        cwd=checkout, check=True, capture_output=True,
    )  # fmt: skip
    _uv("install", "--python", python, "--no-deps", *wheels.glob("*.whl"))
    _forget_the_build(target, facts)
    compile_all(target / "lib", built_below=target, installed_below=PREFIX)


def write_launchers(directory: Path) -> None:
    """Write the commands. They start isolated (`-I`): no variable and no directory of a user's changes what runs."""
    directory.mkdir()
    for name, module in _COMMANDS.items():
        (directory / name).write_text(_LAUNCHER.format(prefix=PREFIX, module=module), encoding="utf-8")
        (directory / name).chmod(0o755)


def compile_all(directory: Path, *, built_below: Path, installed_below: Path) -> None:
    """Compile for good: nobody but root could write the result later, and each start would compile again.

    Unchecked, because a package's files change only together, and times of files would make each build another.
    """
    subprocess.run(
        [SYSTEM_PYTHON, "-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash",
         "-s", built_below, "-p", installed_below, directory],
        check=True, env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip


def _uv(verb: str, *arguments: str | Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "pip", verb, "--quiet", "--link-mode", "copy", *arguments], check=True)


def _forget_the_build(target: Path, facts: Facts) -> None:
    """Remove what is of no use where it will be installed, or says where it was built."""
    for program in (target / "bin").iterdir():
        if not program.name.startswith("python"):
            program.unlink()
    for link in (target / "bin").iterdir():
        link.unlink()
        link.symlink_to(f"/usr/bin/python{facts.python}" if link.name == "python" else "python")
    shutil.rmtree(target / "include", ignore_errors=True)
    (target / "lib64").unlink(missing_ok=True)
    home = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {facts.python}\n"
    (target / "pyvenv.cfg").write_text(home, encoding="utf-8")
    for name in _INSTALLERS_NOTES:
        for note in target.glob(f"lib/python*/site-packages/*.dist-info/{name}"):
            note.unlink()
    (target / ".lock").unlink(missing_ok=True)
    _forget_numpys_tests(target)


def _forget_numpys_tests(target: Path) -> None:
    """Remove a fifth of numpy, which nobody runs here."""
    (numpy,) = target.glob("lib/python*/site-packages/numpy")
    for directory in list(numpy.rglob("tests")):
        shutil.rmtree(directory)
    for library in numpy.glob("_core/_*_tests.*"):
        library.unlink()
