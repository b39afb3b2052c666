"""Man pages: those of programs from their help texts, those of files from the pages in docs/."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import click

import overspill_agent.cli
import overspill_sidecar.cli
from overspill.cli import main as overspill_main
from overspill_packages import command_pages, tables
from overspill_packages.description import Facts

_PROGRAMS: dict[str, click.Command] = {
    "overspill.1": overspill_main,
    "overspill-sidecar.8": overspill_sidecar.cli.main,
    "overspill-agent.8": overspill_agent.cli.main,
}
#: Man page -> its source, in docs/.
_PAGES = {
    "overspill-sidecar.toml.5": "sidecar.toml.md",
    "overspill-agent.toml.5": "agent.toml.md",
    "overspill-policy.7": "policy.md",
}


def build(docs: Path, target: Path, facts: Facts) -> None:
    """Write all man pages into `target`."""
    target.mkdir()
    for page, command in _PROGRAMS.items():
        name, _, section = page.rpartition(".")
        _convert(command_pages.page(name, command, int(section)), target / page, facts)
    for page, source in _PAGES.items():
        _convert(_with_name(page, (docs / source).read_text(encoding="utf-8")), target / page, facts)


def _with_name(page: str, text: str) -> str:
    """Give a page that was written for the web what man(1) wants: the section with its name, and no tables."""
    title, _, rest = text.removeprefix("# ").partition("\n")
    if title == "NAME":
        return text
    return f"# NAME\n\n{page.rpartition('.')[0]} - {title}\n\n# DESCRIPTION\n{tables.as_lists(rest)}"


def _convert(markdown: str, page: Path, facts: Facts) -> None:
    name, _, section = page.name.rpartition(".")
    day = datetime.fromtimestamp(facts.epoch_s, tz=UTC).date().isoformat()
    about = {"title": name.upper(), "section": section, "date": day, "source": f"Overspill {facts.version}"}
    words = [word for key, value in about.items() for word in ("-M", f"{key}={value}")]
    # Without intraemph: `refresh_every_s` is one word.
    argv = ["lowdown", "-s", "-Tman", "--parse-no-intraemph", "--out-no-smarty", *words, "-"]
    done = subprocess.run(argv, input=markdown, check=True, capture_output=True, text=True)
    page.write_text(done.stdout, encoding="utf-8")
