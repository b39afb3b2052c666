"""The command `overspill`, for people. Both sides add commands to it, as entry points of `overspill.commands`."""

from overspill.cli.main import main

__all__ = ["main"]
