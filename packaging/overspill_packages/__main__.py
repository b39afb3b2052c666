"""`make packages`: builds dist/*.deb and dist/*.rpm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from overspill_packages import deb, environment, facts, manuals, pyslurm, rpm, tree
from overspill_packages.description import Description, Facts, Format, load
from overspill_packages.facts import SYSTEM_PYTHON
from overspill_pyslurm import building, pruning

_CHECKOUT = Path(__file__).resolve().parents[2]
#: The proxy starts once per job on another interpreter than the services: its packages lie apart from theirs.
_PROXY_PACKAGES = {"overspill": "proto/overspill", "overspill_proxy": "slurm_plugin/overspill_proxy"}
_PROXY_NEEDS_OF_OVERSPILL = ("__init__.py", "proxy_framing.py")
_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=_CHECKOUT / "dist", show_default=True)
@click.option(
    "--format", "formats", type=click.Choice([format_.value for format_ in Format]), multiple=True,
    default=[format_.value for format_ in Format], show_default=True,
)  # fmt: skip
@click.option(
    "--slurm-include", type=click.Path(path_type=Path), default=Path("/usr/include"), show_default=True,
    help="Directory that holds slurm/spank.h and slurm/slurm.h of the Slurm that the plugin and pyslurm are for.",
)  # fmt: skip
@click.option(
    "--slurm-library", type=click.Path(path_type=Path),
    help="Directory that holds libslurmfull.so of that Slurm, here and where it runs; by default looked for.",
)  # fmt: skip
@click.option("--pyslurm/--no-pyslurm", "with_pyslurm", default=True, help=f"Whether to build {pyslurm.PACKAGE}.")
def main(
    out: Path, formats: tuple[str, ...], slurm_include: Path, slurm_library: Path | None, *, with_pyslurm: bool
) -> None:
    """Build the packages for this machine's Python, architecture and Slurm."""
    os.umask(0o022)
    try:
        found = facts.find(slurm_include)
        target = building.this_machine(slurm_include, slurm_library) if with_pyslurm else None
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except LookupError as error:
        raise click.ClickException(f"{error}; or leave {pyslurm.PACKAGE} out with --no-pyslurm") from error
    out.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="overspill-packages.") as name, ThreadPoolExecutor() as pool:
        work = Path(name)
        (work / "built").mkdir()
        if target is not None:
            _build_pyslurm(work / "built", found, target)
        _build_contents(work / "built", found, slurm_include)
        description = _described(with_pyslurm=with_pyslurm)
        build = partial(_build, description, found, work, out.resolve())
        for path in pool.map(build, map(Format, formats)):
            click.echo("\n".join(map(str, path)))


def _described(*, with_pyslurm: bool) -> Description:
    whole = load(_CHECKOUT / "packaging/packages.toml")
    kept = tuple(package for package in whole.package if with_pyslurm or package.name != pyslurm.PACKAGE)
    return whole.model_copy(update={"package": kept})


def _build(description: Description, found: Facts, work: Path, out: Path, package_format: Format) -> list[Path]:
    """Build all packages of one format and return them."""
    build = {Format.DEB: deb.build, Format.RPM: rpm.build}[package_format]
    common, built, paths = description.common, work / "built", []
    for package in description.package:
        root = work / package_format / package.name
        tree.stage(package, common, package_format, checkout=_CHECKOUT, built=built, root=root, facts=found)
        paths.append(build(package, common, root=root, facts=found, out=out))
    return paths


def _build_contents(built: Path, found: Facts, slurm_include: Path) -> None:
    """Make all that is in the packages and not in the checkout, but for pyslurm."""
    environment.build(_CHECKOUT, built / "venv", found)
    environment.write_launchers(built / "launchers")
    manuals.build(_CHECKOUT / "docs", built / "man", found)
    _write_completions(built / "completions")
    _stage_proxy(built / "proxy")
    _write_plugstack(built / "plugstack.conf", found)
    variables = [f"OUT={built}", f"SLURM_INCLUDE={slurm_include}"]
    make = ["make", "--silent", "-C", str(_CHECKOUT / "slurm_plugin/spank"), *variables]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["strip", "--strip-unneeded", built / "spank_overspill.so"], check=True)


def _build_pyslurm(built: Path, found: Facts, target: building.Target) -> None:
    try:
        pyslurm.build(built / "libraries", built / "pyslurm-source", target, found)
    except (ChildProcessError, pruning.OtherSourceError) as error:
        raise click.ClickException(f"{error}\n{pyslurm.PACKAGE} cannot be built: --no-pyslurm leaves it out") from error


def _write_completions(directory: Path) -> None:
    directory.mkdir()
    for shell in _SHELLS:
        overspill = Path(sys.executable).with_name("overspill")
        script = subprocess.run([overspill, "completion", shell], check=True, capture_output=True).stdout
        (directory / f"overspill.{shell}").write_bytes(script)


def _write_plugstack(path: Path, found: Facts) -> None:
    """Name the very interpreter that the proxy is compiled for; another `python3` would compile it at every start."""
    example = (_CHECKOUT / "packaging/examples/plugstack.conf").read_text(encoding="utf-8")
    python = f"python={SYSTEM_PYTHON} "
    if python not in example:
        raise click.ClickException(f"packaging/examples/plugstack.conf does not say {python}")
    path.write_text(example.replace(python, f"python=/usr/bin/python{found.python} "), encoding="utf-8")


def _stage_proxy(directory: Path) -> None:
    directory.mkdir()
    for name, source in _PROXY_PACKAGES.items():
        (directory / name).mkdir()
        for module in (_CHECKOUT / source).glob("*.py"):
            if name == "overspill_proxy" or module.name in _PROXY_NEEDS_OF_OVERSPILL:
                shutil.copyfile(module, directory / name / module.name)
    environment.compile_all(directory, built_below=directory, installed_below=environment.PREFIX.parent)


if __name__ == "__main__":
    main()
