"""The command line of the agent."""

from __future__ import annotations

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
    path = _or_exit(lambda: config.load(config_path).store.path)
    if not path.exists():
        _exit(f"there is no store at {path}; the agent has not run yet")
    for run in _or_exit(lambda: read_runs(path)):
        click.echo(_as_json(run) if is_json else _as_line(run))


def _as_json(run: Run) -> str:
    return json.dumps(dataclasses.asdict(run))


def _as_line(run: Run) -> str:
    accepted = datetime.fromtimestamp(run.accepted_at_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    outcome = run.ending.outcome.value if run.ending else "-"
    return f"{accepted}  {run.run_id}  {run.request_id}  {run.account}  {run.state.value}  {outcome}"


def _or_exit(action: Callable[[], T]) -> T:
    """Return what `action` returns; what went wrong on purpose is told in one line and ends the program."""
    try:
        return action()
    except OverspillError as error:
        _exit(error.reason)


def _exit(reason: str) -> NoReturn:
    click.echo(f"overspill-agent: {reason}", err=True)
    sys.exit(1)
