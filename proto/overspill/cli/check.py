"""`overspill check`: everything that somebody could have misconfigured, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import entry_points

import click

from overspill.cli.finding import Finding, Level, Side, error
from overspill.cli.output import count, json_option, print_json, print_line, styled

_CHECKS = "overspill.checks"
_WORST_FIRST = (Level.ERROR, Level.WARNING, Level.OK)
_STYLES = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.OK: "green"}


@click.command(short_help="What is wrong on this host, and what to do.")
@click.option("--side", type=click.Choice(["cluster", "site"]), help="Look at this side only, configured or not.")
@click.option("--quiet", "-q", is_flag=True, help="Leave out what is well.")
@json_option
def check(*, side: str | None, quiet: bool, as_json: bool) -> None:
    """Look at everything that could be misconfigured on this host, and say what to do.

    Looks at the side, or the sides, whose configuration file is here. Run it as root: others cannot see everything.
    Nothing is changed. Exit code 1 if there is an error; warnings alone are no error.

    \b
    Examples:
      overspill check
      overspill check --quiet --side cluster
      overspill check --json | jq '.findings[] | select(.level != "ok")'
      OVERSPILL_SIDECAR_CONFIG=/tmp/new.toml overspill check     before it is put in place

    \b
    Environment:
      OVERSPILL_SIDECAR_CONFIG  the cluster's file, /etc/overspill/sidecar.toml
      OVERSPILL_AGENT_CONFIG    the site's file, /etc/overspill/agent.toml
    """
    findings = sorted(look(_sides(), side), key=lambda finding: _WORST_FIRST.index(finding.level))
    counts = {level: sum(finding.level is level for finding in findings) for level in _WORST_FIRST}
    if as_json:
        summary = {f"{level}s" if level is not Level.OK else "ok": count for level, count in counts.items()}
        print_json({"summary": summary, "findings": [asdict(finding) for finding in findings]})
    else:
        _print([finding for finding in findings if not (quiet and finding.level is Level.OK)], counts)
    raise SystemExit(1 if counts[Level.ERROR] else 0)


def look(sides: Sequence[Side], wanted: str | None) -> list[Finding]:
    """Return what the sides of this host find; with `wanted`, that side's alone, whether configured here or not."""
    chosen = [side for side in sides if (side.name == wanted if wanted else side.configuration().exists())]
    if not chosen:
        files = " and ".join(sorted({str(side.configuration()) for side in sides}))
        remedy = "overspill-sidecar and overspill-agent each bring one; docs/howto-admin.md says what goes in"
        return [
            error("configuration", f"no side of Overspill is configured on this host: {files} are not there", remedy)
        ]
    return [finding for side in chosen for finding in _of(side)]


def _of(side: Side) -> Iterable[Finding]:
    return side.look(side.configuration())


def _sides() -> list[Side]:
    sides = [entry_point.load() for entry_point in entry_points(group=_CHECKS)]
    return [side for side in sides if isinstance(side, Side)]


def _print(findings: Sequence[Finding], counts: dict[Level, int]) -> None:
    for finding in findings:
        line = styled(f"{finding.level.upper():7}", _STYLES[finding.level])
        line.append(" ")
        line.append_text(styled(finding.subject, "bold"))
        line.append_text(styled(f": {finding.says}", ""))
        print_line(line)
        if finding.remedy:
            print_line(f"        -> {finding.remedy}")
    errors, warnings = counts[Level.ERROR], counts[Level.WARNING]
    print_line(f"{count(errors, 'error')}, {count(warnings, 'warning')}, {counts[Level.OK]} ok")
