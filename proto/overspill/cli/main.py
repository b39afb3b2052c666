"""The group that finds its commands by their entry points, so that neither side has to know the other."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from overspill import __version__

_COMMANDS = "overspill.commands"


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


def _installed() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=_COMMANDS)}


@click.group(cls=_InstalledCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="overspill")
def main() -> None:
    """Look at Overspill and set it up: what is diverted where, why, and what is wrong."""
