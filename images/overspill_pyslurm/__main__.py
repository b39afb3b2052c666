"""`make pyslurm`: builds pyslurm for this machine's Slurm into the environment of the Python that runs this."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import click

from overspill_pyslurm.building import build, this_machine
from overspill_pyslurm.pruning import OtherSourceError


@click.command()
@click.option(
    "--slurm-include", type=click.Path(path_type=Path), default=Path("/usr/include"), show_default=True,
    help="Directory that holds slurm/slurm.h.",
)  # fmt: skip
@click.option("--slurm-library", type=click.Path(path_type=Path), help="Directory that holds libslurmfull.so.")
@click.option(
    "--directory", type=click.Path(path_type=Path), default=Path(sysconfig.get_path("platlib")),
    help="Where to put it; by default among the libraries of this Python.",
)  # fmt: skip
def main(slurm_include: Path, slurm_library: Path | None, directory: Path) -> None:
    """Build what reads the queue of pyslurm, for one Slurm and one Python."""
    try:
        release = build(this_machine(slurm_include, slurm_library), directory)
    except (ChildProcessError, LookupError, OtherSourceError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"pyslurm for Slurm {release} in {directory}")


if __name__ == "__main__":
    main()
