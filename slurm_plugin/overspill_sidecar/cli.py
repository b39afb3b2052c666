"""The command line: `overspill-sidecar`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import click

from overspill import __version__
from overspill.daemon import LOG_LEVELS, set_up_logs
from overspill.errors import OverspillError
from overspill_sidecar.app import Role, Sidecar
from overspill_sidecar.config import DEFAULT_PATH, SidecarConfig, load
from overspill_sidecar.history import read_sacct, sacct_argv
from overspill_sidecar.wait import OnlineModel
from overspill_sidecar.wait.replay import warm_up
from overspill_sidecar.wait.state import save
from overspill_sidecar.wait.stdio import answers
from overspill_sidecar.wait.trees import are_available

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
      overspill-sidecar learn --output /var/lib/overspill/waits.state
      overspill-sidecar wait-model --stdio < events.jsonl
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


@main.command("wait-model")
@click.option("--stdio", is_flag=True, required=True, help="Read events and questions from stdin, answer on stdout.")
@click.option(
    "--trees/--no-trees", default=True, show_default=True, help="With boosted trees, where they are installed."
)
def wait_model(*, stdio: bool, trees: bool) -> None:  # noqa: ARG001 - the only way to ask it so far
    """Predict queue waits from events given as JSON, one object to a line: to judge the model on a recorded queue.

    \b
    Examples:
      overspill-sidecar wait-model --stdio <<'END'
      {"op":"site","procs":64}
      {"op":"submit","job":{"id":1,"submit":0,"procs":64,"req_time":3600,"user":3,"queue":"batch"}}
      {"op":"start","id":1,"t":10}
      {"op":"predict","job":{"id":2,"submit":99,"procs":4,"req_time":600,"user":4,"queue":"batch"},"now":99}
      END
    """
    has_trees = trees and are_available()
    if trees and not has_trees:
        click.echo("wait-model: without trees: the extra is not installed (pip install 'overspill[trees]')", err=True)
    try:
        for answer in answers(sys.stdin, with_trees=has_trees):
            click.echo(answer)
    except OverspillError as error:
        raise click.ClickException(error.reason) from error


@main.command()
@click.option("--since", default="now-14days", show_default=True, metavar="TIME", help="As sacct --starttime takes it.")
@click.option("--not-from", multiple=True, metavar="PARTITION", help="Jobs of this partition are left out.")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where the model is kept."
)
def learn(since: str, not_from: tuple[str, ...], output: Path) -> None:
    """Make a wait model of the jobs that sacct remembers. A router that knows nothing yet does this by itself.

    \b
    Examples:
      overspill-sidecar learn --since now-60days --not-from overspill --output /var/lib/overspill/waits.state
    """
    try:
        with subprocess.Popen(sacct_argv(since), stdout=subprocess.PIPE, text=True, errors="replace") as sacct:
            jobs = read_sacct(sacct.stdout or ())
            past = [job for job in jobs if not {job.partition, *job.other_partitions} & set(not_from)]
        if sacct.returncode:
            raise click.ClickException(f"sacct ended with exit code {sacct.returncode}")
        model = OnlineModel(max((job.cpus for job in past), default=1))
        click.echo(f"learned from {warm_up(model, past)} jobs", err=True)
        save(model, output)
    except OverspillError as error:
        raise click.ClickException(error.reason) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'sacct'}: {error.strerror}") from error


async def _serve(config: SidecarConfig, role: Role) -> None:
    await Sidecar(config, role).run()
