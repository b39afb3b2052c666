"""The command line of the agent."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import click

import overspill
from overspill.daemon import LOG_LEVELS, set_up_logs
from overspill.errors import OverspillError
from overspill_agent import app, config
from overspill_agent.backend import backend_of
from overspill_agent.drain import Drain
from overspill_agent.killing import kill_runs
from overspill_agent.leftovers import forget_unknown
from overspill_agent.presence import presences
from overspill_agent.runs import Run
from overspill_agent.store.reading import read_runs

T = TypeVar("T")

_CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=config.DEFAULT_PATH,
    show_default=True,
    help="The agent's configuration.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(overspill.__version__, prog_name="overspill-agent")
def main() -> None:
    """The site's side of Overspill: takes runs from clusters' relays and runs them here.

    \b
    Examples:
      overspill-agent run
      overspill-agent runs --json
      overspill-agent drain "new disks until noon"
    """


@main.command("run")
@_CONFIG
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
def run_command(config_path: Path, log_level: str) -> None:
    """Run the agent until SIGTERM or SIGINT. Runs go on meanwhile and are taken up again at the next start.

    Logs are JSON on standard error; on a terminal they are for reading.
    """
    set_up_logs(log_level)
    _or_exit(lambda: app.run(config.load(config_path)))


@main.command("runs")
@_CONFIG
@click.option("--json", "is_json", is_flag=True, help="One JSON object per line, with every field.")
def runs_command(config_path: Path, *, is_json: bool) -> None:
    """List all runs that the agent remembers, oldest first. Works while it runs, and while it does not."""
    loaded = _load(config_path)
    for run in _stored_runs(loaded):
        click.echo(_as_json(run, loaded.backend) if is_json else _as_line(run, loaded.backend))


@main.command("images")
@_CONFIG
@click.option("--json", "is_json", is_flag=True, help="One JSON object per line, with every field.")
def images_command(config_path: Path, *, is_json: bool) -> None:
    """List the site's catalogue, and whether each image can run jobs here now."""
    loaded = _load(config_path)
    for name, finding in _or_exit(lambda: asyncio.run(presences(loaded, backend_of(loaded)))).items():
        section = loaded.images[name]
        if is_json:
            fields = {"name": name, **section.model_dump(mode="json"), "is_present": finding.is_present}
            click.echo(json.dumps({**fields, "reason": finding.reason}))
        else:
            click.echo(f"{name}  {section.reference}  {finding.in_words}")


@main.command("drain")
@_CONFIG
@click.argument("reason")
def drain_command(config_path: Path, reason: str) -> None:
    """Take no new run from any cluster until `resume`; those that are here go on. Outlives restarts.

    The clusters drain their virtual nodes; their admins see REASON in sinfo -R.

    \b
    Example:
      overspill-agent drain "new disks until noon"
    """
    _or_exit(lambda: _drain(config_path).begin(reason))
    click.echo("no new run is taken; what runs goes on: overspill-agent runs. To end the drain: overspill-agent resume")


@main.command("resume")
@_CONFIG
def resume_command(config_path: Path) -> None:
    """Take new runs again."""
    _or_exit(lambda: _drain(config_path).end())
    click.echo("new runs are taken; the clusters resume their virtual nodes")


@main.command("kill")
@_CONFIG
@click.option("--all", "is_all", is_flag=True, help="Every run that is here.")
@click.option("--unknown", "is_unknown", is_flag=True, help="Runs that the back end keeps and the agent does not know.")
@click.argument("run_ids", nargs=-1, metavar="RUN_ID...")
def kill_command(config_path: Path, run_ids: tuple[str, ...], *, is_all: bool, is_unknown: bool) -> None:
    """Kill runs with all their processes, at once. Works while the agent runs, and while it does not.

    Their clusters take it for a node failure: Slurm starts the jobs again, here or elsewhere, if they may be requeued.
    To have none come back, drain first. As root.

    \b
    Examples:
      overspill-agent kill 1f0c6a9e4d2b4f7c8a35e6d7b8c9a0f1
      overspill-agent drain "intruder" && overspill-agent kill --all
    """
    if sum((bool(run_ids), is_all, is_unknown)) != 1:
        raise click.UsageError("name runs, or say --all or --unknown")
    loaded = _load(config_path)
    if is_unknown:
        for run_id in _or_exit(lambda: asyncio.run(forget_unknown(backend_of(loaded), lambda: _stored_runs(loaded)))):
            click.echo(f"forgot {run_id}")
        return
    here = {run.run_id: run for run in _stored_runs(loaded) if not run.is_cleaned}
    if unknown := [run_id for run_id in run_ids if run_id not in here]:
        _exit(f"no such run is here: {', '.join(unknown)}; overspill-agent runs lists them")
    chosen = [here[run_id] for run_id in run_ids or here]
    killed = _or_exit(lambda: asyncio.run(kill_runs(backend_of(loaded), chosen)))
    for each in killed:
        if each.problem:
            click.echo(f"overspill-agent: {each.run_id} may live, try again: {each.problem}", err=True)
        elif each.was_alive:
            click.echo(f"killed {each.run_id}")
        elif run_ids:
            click.echo(f"nothing of {each.run_id} is running")
    if any(each.problem for each in killed):
        sys.exit(1)


def _load(config_path: Path) -> config.AgentConfig:
    return _or_exit(lambda: config.load(config_path))


def _drain(config_path: Path) -> Drain:
    return Drain(_load(config_path).store.path.parent)


def _stored_runs(loaded: config.AgentConfig) -> list[Run]:
    path = loaded.store.path
    if not path.exists():
        _exit(f"there is no store at {path}; the agent has not run yet")
    return _or_exit(lambda: read_runs(path))


def _as_json(run: Run, backend: str) -> str:
    return json.dumps({**dataclasses.asdict(run), "backend": backend})


def _as_line(run: Run, backend: str) -> str:
    accepted = datetime.fromtimestamp(run.accepted_at_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    outcome = run.ending.outcome.value if run.ending else "-"
    place = "  ".join((backend, run.image or "-", run.machine or "-", run.remote_id or "-"))
    names = f"{run.run_id}  {run.request_id}  {run.account}"
    return f"{accepted}  {names}  {run.state.value}  {outcome}  {place}"


def _or_exit(action: Callable[[], T]) -> T:
    """Return what `action` returns; what went wrong on purpose is told in one line and ends the program."""
    try:
        return action()
    except OverspillError as error:
        _exit(error.reason)


def _exit(reason: str) -> NoReturn:
    click.echo(f"overspill-agent: {reason}", err=True)
    sys.exit(1)
