"""Options whose values a function reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

V = TypeVar("V")


class Parsed(click.ParamType[V]):
    """What `parse` makes of the text; its ValueError tells the user what is wrong with it."""

    def __init__(self, name: str, parse: Callable[[str], V]) -> None:
        """Represent a type, which help texts call `name`."""
        self.name = name
        self._parse = parse

    def convert(self, value: str | V, param: click.Parameter | None, ctx: click.Context | None) -> V:
        """Return the value; a default is one already."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
