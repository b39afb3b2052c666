"""`make images`: builds what jobs run in."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from overspill_images import packages, recipe
from overspill_images.builder import Builder, Image, Options
from overspill_images.engine import EngineError
from overspill_images.recipe import IMAGES, RecipeError

_OUT = IMAGES.parent / "build/images"
_MB = 1e6


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@click.option("--base", default="", help="An image in a registry, or a file that `docker save` wrote, to build upon.")
@click.option("--ca", type=click.Path(path_type=Path), help="Certificates (PEM) that the images shall trust, too.")
@click.option("--fresh", is_flag=True, help="Build again what is built already, with the packages of today.")
@click.option("--lock", is_flag=True, help="Write the packages that an image has now to images/IMAGE/packages.lock.")
@click.option("--out", type=click.Path(path_type=Path), default=_OUT, show_default=True)
def main(names: tuple[str, ...], base: str, ca: Path | None, *, fresh: bool, lock: bool, out: Path) -> None:
    """Build the images named, or all; those that they are made from are built before them.

    OUT gets IMAGE.tar, for `docker load`, and IMAGE.packages.tsv. What has not changed is not built again.

    \b
    Examples:
      make images
      make images IMAGE="runtime-mini htcondor"
      make images IMAGE=runtime-base BASE=debian:trixie CA=/etc/ssl/certs/ca-certificates.crt
    """
    began = time.monotonic()
    console = Console()

    def show(step: str) -> None:
        console.print(f"[{time.monotonic() - began:5.1f} s] {step}", markup=False, highlight=False, soft_wrap=True)

    try:
        images = Builder(Options(base=base, ca=ca, is_fresh=fresh), show).build(names or recipe.names())
    except (ChildProcessError, EngineError, RecipeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    table = Table("image", "size", "built in", "packages", box=None)
    for image in images:
        _put(image, out)
        if lock:
            packages.record(image.name, image.packages)
        changed = [] if base else packages.drift(image.name, image.packages)
        (out / f"{image.name}.drift").write_text("".join(f"{line}\n" for line in changed))
        how_long = f"{image.build_s:.0f} s{' (before)' if image.is_cached else ''}"
        as_locked = f"{len(changed)} not as in packages.lock" if changed else "another base" if base else "as locked"
        table.add_row(image.reference, f"{image.size_bytes / _MB:.0f} MB", how_long, as_locked)
    console.print(table)
    console.print(f"in {out}: try `docker load --input {out}/{images[-1].name}.tar`", highlight=False, soft_wrap=True)


def _put(image: Image, out: Path) -> None:
    """Show the archive in `out` and copy the list of packages there."""
    link = out / f"{image.name}.tar"
    link.unlink(missing_ok=True)
    link.symlink_to(image.archive)
    shutil.copyfile(image.packages, out / f"{image.name}.packages.tsv")


if __name__ == "__main__":
    main()
