"""The command line: `overspill-sidecar`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from overspill import __version__
from overspill.daemon import LOG_LEVELS, set_up_logs
from overspill.errors import OverspillError
from overspill_sidecar.app import Role, Sidecar
from overspill_sidecar.config import DEFAULT_PATH, SidecarConfig, load

_config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_PATH,
    show_default=True,
    help="The sidecar's configuration.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="overspill-sidecar")
def main() -> None:
    """Decide where Slurm's jobs run, and carry those that run elsewhere.

    \b
    Examples:
      overspill-sidecar run --config /etc/overspill/sidecar.toml
    """


@main.command()
@_config_option
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.ALL.value,
    show_default=True,
    help="What to serve.",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
def run(path: Path, role: str, log_level: str) -> None:
    """Serve until SIGTERM. Runs as SlurmUser, because it moves jobs.

    \b
    Examples:
      overspill-sidecar run                     router and relay in one process
      overspill-sidecar run --role router       beside slurmctld
      overspill-sidecar run --role relay        beside the virtual nodes
    """
    set_up_logs(log_level)
    try:
        asyncio.run(_serve(load(path), Role(role)))
    except OverspillError as error:
        raise click.ClickException(error.reason) from error


async def _serve(config: SidecarConfig, role: Role) -> None:
    await Sidecar(config, role).run()
