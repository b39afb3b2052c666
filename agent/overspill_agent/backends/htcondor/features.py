"""--constraint, as Slurm has it, in ClassAd expressions. Pure.

Source of the grammar: https://slurm.schedmd.com/sbatch.html, --constraint. Counts, brackets and node-wise alternatives
mean several nodes; a run has one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from overspill.errors import UnrunnableError
from overspill_agent.backends.htcondor.site import Meaning

_PART = re.compile(r"\s*([&|()]|[A-Za-z0-9_.:/=+-]+)")
_OPERATORS = {"&": "&&", "|": "||"}
_SIGNS = frozenset("&|()")


def words(constraint: str) -> list[str]:
    """Return every feature that the constraint names, in order.

    Raises:
        UnrunnableError: it says something that has no meaning for one node.
    """
    return [word for word in _parts(constraint) if word not in _SIGNS]


def requirements(constraint: str, meanings: Mapping[str, Meaning], image_words: frozenset[str]) -> str:
    """Return what a machine must satisfy; "true" for an empty constraint.

    Raises:
        UnrunnableError: a word means nothing here; names it, and those that do.
    """
    return " ".join(_expression(part, meanings, image_words) for part in _parts(constraint)) or "true"


def rank(constraint: str, meanings: Mapping[str, Meaning]) -> list[str]:
    """Return the ranks of the words that have one."""
    found = (meanings[word].rank for word in dict.fromkeys(words(constraint)) if word in meanings)
    return [expression for expression in found if expression]


def _expression(part: str, meanings: Mapping[str, Meaning], image_words: frozenset[str]) -> str:
    if part in _SIGNS:
        return _OPERATORS.get(part, part)
    if part in meanings:
        return f"({meanings[part].requirements})"
    if part in image_words:
        return "true"
    known = ", ".join(sorted({*meanings, *image_words})) or "none"
    raise UnrunnableError(f"this site has no machines with feature {part!r}; it knows {known}")


def _parts(constraint: str) -> list[str]:
    parts, at = [], 0
    while at < len(constraint):
        match = _PART.match(constraint, at)
        if match is None:
            raise UnrunnableError(f"this site cannot tell what --constraint={constraint} asks of one machine")
        parts.append(match[1])
        at = match.end()
    if parts and not _is_well_formed(parts):
        raise UnrunnableError(f"--constraint={constraint} is no expression of features")
    return parts


def _is_well_formed(parts: list[str]) -> bool:
    """Tell whether words and operators alternate and parentheses match: what follows is pasted into an expression."""
    depth, is_word_next = 0, True
    for part in parts:
        is_opening = part not in ("&", "|", ")")
        if is_opening is not is_word_next:
            return False
        depth += {"(": 1, ")": -1}.get(part, 0)
        is_word_next = part in ("&", "|", "(")
        if depth < 0:
            return False
    return depth == 0 and not is_word_next
