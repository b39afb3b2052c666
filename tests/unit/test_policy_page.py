"""docs/policy.md lists exactly the words that there are."""

from __future__ import annotations

from pathlib import Path

from overspill_sidecar.policy import WORDS, Scope, Word

_PAGE = Path(__file__).parents[2] / "docs/policy.md"
_AFTER_AT = {
    Scope.NONE: "",
    Scope.OWN: "the job's own partition",
    Scope.OVERSPILL: "an overspill partition",
    Scope.ACCOUNT: "an account",
}


def row(word: Word) -> str:
    """Return the word's line in the page's table."""
    return f"| `{word.name}` | {word.meaning} | {word.default} | {_AFTER_AT[word.scope]} | `{word.example}` |"


def test_the_page_lists_every_word_as_the_program_knows_it() -> None:
    lines = [line for line in _PAGE.read_text().splitlines() if line.startswith("| `overspill_")]
    assert lines == [row(word) for word in WORDS.values()]
