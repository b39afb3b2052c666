"""`overspill completion`: what a shell needs to complete our words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="The script that makes a shell complete commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, job ids and sites.

    \b
    Examples:
      source <(overspill completion bash)
      overspill completion bash >/usr/share/bash-completion/completions/overspill
      overspill completion fish >~/.config/fish/completions/overspill.fish
    """
    completing = get_completion_class(shell)
    assert completing is not None  # noqa: S101 - the choices are those that click brings
    click.echo(completing(context.find_root().command, {}, "overspill", "_OVERSPILL_COMPLETE").source())
