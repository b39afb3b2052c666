"""What commands print: for a person on a terminal, in plain columns through a pipe, as JSON for a program.

Colour is on a terminal only and NO_COLOR turns it off (https://no-color.org). Users choose job names and paths, so no
text of theirs reaches the terminal with its control characters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

import click
from rich.console import Console
from rich.text import Text

Cell = str | Text

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs; its keys are stable.")


def console(*, is_stderr: bool = False) -> Console:
    """Return a console for stdout or stderr that changes no word: no markup, no highlighting, no emoji."""
    return Console(stderr=is_stderr, markup=False, highlight=False, emoji=False)


def print_json(value: object) -> None:
    """Print a value as indented JSON; keys keep their order."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def printable(text: str) -> str:
    """Return the text with what a terminal could take for a command replaced."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def styled(text: str, style: str) -> Text:
    """Return a cell or a line in a style of rich's: "bold", "red"."""
    return Text(printable(text), style=style)


def print_line(text: Cell = "") -> None:
    """Print one line, which a terminal may wrap and a pipe may not."""
    if isinstance(text, str) or not sys.stdout.isatty():
        click.echo(printable(text) if isinstance(text, str) else text.plain)
    else:
        console().print(text, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under their headings, in columns two blanks apart; nothing is cut or folded."""
    lines = [[styled(name, "bold") for name in columns], *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        row = Text()
        for cell, width in zip(line, widths, strict=True):
            cell.pad_right(width + 2 - len(cell))
            row.append_text(cell)
        row.rstrip()
        print_line(row)


def print_facts(facts: Mapping[str, Cell]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        line = Text(f"{name.ljust(width)}  ")
        line.append_text(_text(value))
        print_line(line)


def local_time(unix_time_s: float | None) -> str:
    """Return a time as people at this machine read it, "-" for none."""
    if not unix_time_s:
        return "-"
    return datetime.fromtimestamp(unix_time_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "3 d 4 h", "12 min 5 s", "0.25 s"."""
    if seconds < 10:  # noqa: PLR2004 - below, fractions matter
        return f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    units = [("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60)]
    first = next((index for index, (_, value) in enumerate(units) if value), len(units) - 1)
    return " ".join(f"{value} {unit}" for unit, value in units[first : first + 2] if value)


def whole_duration(seconds: float) -> str:
    """Return a duration of which fractions of a second mean nothing: "0 s", "12 min 5 s"."""
    return duration(round(seconds)) if seconds >= 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - where `duration` shows whole seconds


def count(number: int, what: str) -> str:
    """Return "no jobs", "1 job", "2 jobs"."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _text(cell: Cell) -> Text:
    return cell.copy() if isinstance(cell, Text) else Text(printable(cell))
