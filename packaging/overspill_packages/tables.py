"""Markdown tables as lists: a terminal is too narrow for their columns."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
_RULE = 1


def as_lists(text: str) -> str:
    """Return the page with each row of a table as a term and what the other columns say of it."""
    return _TABLE.sub(lambda table: "\n".join(_items(table[0].splitlines())), text)


def _items(lines: list[str]) -> Iterator[str]:
    headings, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for term, meaning, *others in rows[_RULE:]:
        more = [f"{heading}: {cell}" for heading, cell in zip(headings[2:], others, strict=True) if cell]
        yield f"{term}\n: {' '.join([meaning, *(f'{each}.' for each in more)])}\n"
