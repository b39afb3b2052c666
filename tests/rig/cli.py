"""The rig's command line, behind `make up`, `make exec`, `make status` and `make down`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tests.rig import site_backend
from tests.rig.accounts import login_environment
from tests.rig.demo import run_demo
from tests.rig.directory import main_path, remove_leftovers
from tests.rig.errors import NotUpError, RigError
from tests.rig.options import DEFAULT_POLICY
from tests.rig.parts import CHECKOUT, Part
from tests.rig.progress import printed
from tests.rig.releases import RELEASES, THIS_MACHINES, VARIABLE
from tests.rig.rig import Rig
from tests.rig.site_backend import SiteBackend
from tests.rig.slurm_conf import ClusterOptions
from tests.rig.status import is_healthy, report

#: Describes the rig in the default directory to a shell.
_ENV_FILE = CHECKOUT / ".rig/env"
_HINT = "Try: make exec CMD='sbatch --wrap \"hostname; sleep 20\"', make exec CMD=squeue, make status, make down"


_slurm = click.option(
    "--slurm",
    type=click.Choice([*RELEASES]),
    help=f"Release of Slurm.  [default: {VARIABLE}, else {THIS_MACHINES.name}]",
)


_backend = click.option(
    "--backend",
    type=click.Choice([*map(str, SiteBackend)]),
    help=f"Where the site runs jobs.  [default: {site_backend.VARIABLE}, else {SiteBackend.LOCAL}]",
)


class _Group(click.Group):
    """A group that turns the rig's own errors into a message and exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RigError as error:
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            raise click.ClickException(f"{error}{notes}") from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=main_path(),
    help="Where the rig's files are; another one for a second rig.  [default: one in /var/tmp per checkout]",
)
@click.pass_context
def main(context: click.Context, directory: Path) -> None:
    """A private Slurm with Overspill and a remote site, on this machine, left running to be tried out."""
    context.obj = directory.absolute()


@main.command()
@_slurm
@_backend
def demo(slurm: str | None, backend: str | None) -> None:
    """Show a full cluster spill over, in a rig of its own, and check every promise.

    Exit code 1 if one is broken.
    """
    sys.exit(run_demo(slurm, backend))


@main.command()
@click.option("--policy", default=DEFAULT_POLICY, show_default=True, help="Words for SlurmctldParameters.")
@click.option("--shared", is_flag=True, help="Let the site see the cluster's /home.")
@click.option("--without", multiple=True, type=click.Choice([*map(str, Part)]), help="Leave a part of Overspill out.")
@_slurm
@_backend
@click.pass_obj
def up(
    path: Path, policy: str, *, shared: bool, without: Sequence[str], slurm: str | None, backend: str | None
) -> None:
    """Bring the rig up and leave it running.

    Writes .rig/env, which a shell can read.

    \b
    Examples:
      python -m tests.rig up
      python -m tests.rig up --policy overspill_mode=always --shared
      python -m tests.rig up --without agent      # a site that is down
      python -m tests.rig up --slurm 26.05
      python -m tests.rig up --backend docker
    """
    rig = Rig.up(
        policy=policy,
        shared=shared,
        without=[Part(name) for name in without],
        slurm=slurm,
        backend=backend,
        cluster=ClusterOptions(late_every_s=10.0),
        path=path,
        progress=printed(),
    )
    rig.keep_running()
    if path == main_path():
        _write_env_file(rig)
        click.echo(_HINT)


@main.command()
@click.pass_obj
def down(path: Path) -> None:
    """End every process of the rig and remove every file.

    \b
    Example:
      python -m tests.rig down
    """
    try:
        Rig.attach(path).down()
        click.echo("down")
    except NotUpError:
        remove_leftovers()
        click.echo("no rig was up")
    if path == main_path():
        shutil.rmtree(_ENV_FILE.parent, ignore_errors=True)


@main.command()
@click.pass_obj
def status(path: Path) -> None:
    """Show daemons, nodes, queue and whether the agent can be reached; exit code 1 if something is wrong.

    \b
    Example:
      python -m tests.rig status
    """
    rig = Rig.attach(path)
    click.echo(report(rig))
    if not is_healthy(rig):
        sys.exit(1)


@main.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--as", "user", default="alice", show_default=True, help="alice, bob or root.")
@click.option("--at", "host_name", default="cluster", type=click.Choice(["cluster", "site"]), show_default=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def execute(path: Path, user: str, host_name: str, command: tuple[str, ...]) -> None:
    """Execute COMMAND in a host as after a login, in the user's home, and exit as it does.

    One argument is a line for a login shell; more are an argument list; none opens an interactive login shell.

    \b
    Examples:
      python -m tests.rig exec squeue
      python -m tests.rig exec --as bob 'sbatch --wrap "hostname; sleep 5" && squeue'
      python -m tests.rig exec --as root --at site -- ss -ltnp
      python -m tests.rig exec
    """
    rig = Rig.attach(path)
    shell = ["bash", "--login"]
    argv = shell if not command else [*shell, "-c", command[0]] if len(command) == 1 else list(command)
    host = rig.cluster if host_name == "cluster" else rig.site
    terminal = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    inside = host.command(argv, user=user)
    os.execvpe(inside[0], inside, login_environment(user) | terminal)  # noqa: S606 - an argv list, no shell wanted


def _write_env_file(rig: Rig) -> None:
    variables = {
        "RIG_ROOT": rig.path,
        "RIG_CLUSTER_PID": rig.cluster.init_pid,
        "RIG_SITE_PID": rig.site.init_pid,
        "RIG_POLICY": " ".join(rig.options.policy_words),
        "RIG_SLURM": rig.options.slurm.name,
        "RIG_SHARED_HOME": int(rig.options.has_shared_home),
    }
    _ENV_FILE.parent.mkdir(exist_ok=True)
    _ENV_FILE.write_text("".join(f"{name}={shlex.quote(str(value))}\n" for name, value in variables.items()))
