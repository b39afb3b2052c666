"""A command's help texts as a page in Markdown: one page per program, with all of its commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

#: click's mark of a paragraph that must not be filled.
_AS_IS = "\b"


def page(name: str, command: click.Command, section: int) -> str:
    """Return the man page of the program `name` in Markdown."""
    context = _context(command, name)
    lines = [f"# NAME\n\n{name} - {_first_line(command)}\n", "# SYNOPSIS\n", _code(_usage(context))]
    lines += ["# DESCRIPTION\n", *_paragraphs(command), *_options(context)]
    if isinstance(command, click.Group):
        lines.append("# COMMANDS\n")
        lines += [part for child in _children(context, command) for part in _command(child)]
    lines.append(f"# SEE ALSO\n\n{_SEE_ALSO[section]}\n")
    return "\n".join(lines)


_SEE_ALSO = {
    1: "**overspill-policy**(7), **overspill-sidecar**(8), **overspill-agent**(8)",
    8: "**overspill**(1), **overspill-policy**(7), **overspill-sidecar.toml**(5), **overspill-agent.toml**(5)",
}


def _children(context: click.Context, group: click.Group) -> Iterator[click.Context]:
    """Yield the contexts of a group's visible commands, and of theirs."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        child = _context(command, name, context)
        yield child
        if isinstance(command, click.Group):
            yield from _children(child, command)


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _command(context: click.Context) -> list[str]:
    return [f"## {context.command_path}\n", _code(_usage(context)), *_paragraphs(context.command), *_options(context)]


def _usage(context: click.Context) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def _first_line(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\n")[0].removesuffix(".").removesuffix(":")


def _paragraphs(command: click.Command) -> list[str]:
    texts = inspect.cleandoc(command.help or "").split("\n\n")
    return [_as_is(text) if text.startswith(_AS_IS) else f"{_escape(text)}\n" for text in texts]


def _as_is(text: str) -> str:
    """Return the paragraph with its heading, if it has one, as text and its lines as they are."""
    first, *others = text.removeprefix(_AS_IS).strip("\n").split("\n")
    if not first.endswith(":"):
        return _code(first, *others)
    return f"{_escape(first)}\n\n" + _code(*others)


def _options(context: click.Context) -> list[str]:
    records = [parameter.get_help_record(context) for parameter in context.command.get_params(context)]
    return [f"**{_escape(record[0])}**\n: {_escape(record[1])}\n" for record in records if record]


def _code(*lines: str) -> str:
    return "".join(f"    {line.strip()}\n" for line in lines)


def _escape(text: str) -> str:
    """Keep what is Markdown's in a text that is none."""
    return "".join("\\" + character if character in "*_<>[]`#" else character for character in text)
