"""The group that finds its commands by their entry points, so that neither side has to know the other."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

import click

# gRPC's own log lines are for its developers; what goes wrong is said by the command.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from overspill import __version__
from overspill.cli.check import check
from overspill.cli.completion import completion
from overspill.cli.output import printable
from overspill.errors import OverspillError

_COMMANDS = "overspill.commands"
#: What a write to a full disk, or to no file at all, comes back with.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF})


class _InstalledCommands(click.Group):
    """Loads a command when it is called for: `overspill jobs` must not wait for what `overspill pki` imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_installed()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry_point = _installed().get(cmd_name)
        if entry_point is None:
            return super().get_command(ctx, cmd_name)
        command = entry_point.load()
        if not isinstance(command, click.Command):
            raise click.ClickException(f"{entry_point.value} is no command; reinstall Overspill")
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what goes wrong is one line and exit code 1."""
        if sys.stdout is None:
            _fail("standard output is closed")
        try:
            return super().invoke(ctx)
        except OverspillError as error:
            _fail(error.reason)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - the program's edge; its traceback is kept
            if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
                _drop_output()
                _fail(f"cannot write to standard output: {error.strerror}")
            _fail(
                f"a defect of Overspill ({type(error).__name__}: {error}); please report it, with {_kept_traceback()}"
            )


def _installed() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=_COMMANDS)}


def _fail(reason: str) -> NoReturn:
    lines = "\n".join(printable(line) for line in reason.splitlines())
    click.echo(f"overspill: {lines}", err=True)
    sys.exit(1)


def _drop_output() -> None:
    """Let what could not be written go: the interpreter would fail on it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _kept_traceback() -> str:
    """Return the name of a file, readable by the caller only, that holds what went wrong."""
    descriptor, name = tempfile.mkstemp(prefix="overspill-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return name


@click.group(cls=_InstalledCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="overspill")
def main() -> None:
    """Look at Overspill and set it up: what is diverted where, why, and what is wrong.

    Exit codes: 0 all is well, 1 something is wrong or could not be done, 2 the command was called in a wrong way.

    \b
    Examples:
      overspill check                 what is wrong on this host, and what to do
      overspill status                policy, sites and diverted jobs at a glance
      overspill explain 1234          why job 1234 went where it did
      overspill logs 1234 -f          its output as it comes
      overspill doctor                send a probe job the whole way
    """


main.add_command(check)
main.add_command(completion)
