"""The picture that `overspill simulate --plot` draws. It alone needs matplotlib, the extra `plot`."""

from __future__ import annotations

import importlib.util
import math
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overspill.cli.output import duration
from overspill.errors import InvalidRequestError, UnavailableError
from overspill_sidecar.commands.simulate_report import Report
from overspill_sidecar.simulation.timeline import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ENDINGS = (".png", ".svg")
_DAY_S = 86400.0
_HOUR_S = 3600.0
_TITLE_CHARACTERS = 110
_WIDTH_INCHES, _HEIGHT_INCHES, _DOTS_PER_INCH = 10.0, 9.0, 130
#: Told apart by the colour-blind, too. Source: Okabe and Ito, https://jfly.uni-koeln.de/color/.
_BLUE, _ORANGE, _GREEN, _VERMILION, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"


def check_plot(path: Path) -> None:
    """Make sure, before anything long is begun, that a picture can be drawn.

    Raises:
        click.BadParameter: if the name does not say which kind of picture, or its directory is not there.
        UnavailableError: if matplotlib is not there.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise click.BadParameter(f"{path} does not end in {' or '.join(_ENDINGS)}", param_hint="--plot")
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.absolute().parent}", param_hint="--plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise UnavailableError(
            f"--plot needs matplotlib: {sys.executable} -m pip install matplotlib; or take --json for the numbers"
        )


def write_plot(report: Report, path: Path) -> None:
    """Draw the trial into a file; a second time it is the same picture.

    Raises:
        InvalidRequestError: if it cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - slow, large, and not always there
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
    waits, jobs, cpus = figure.subplots(3, 1, sharex=True)
    # Words are the admin's own: a $ in them is no formula.
    figure.suptitle("\n".join(textwrap.wrap(report.words, _TITLE_CHARACTERS)), fontsize="medium", parse_math=False)
    edges = _edges(report)
    _draw_waits(waits, edges, report)
    _draw_jobs(jobs, edges, report.result.spans)
    _draw_cpus(cpus, edges, report)
    _label_time(cpus, report)
    figure.align_ylabels()
    try:
        with rc_context({"svg.hashsalt": "overspill"}):
            figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {path}: {error.strerror}") from error


def _edges(report: Report) -> list[float]:
    """Return where spans begin, and where the last ends: days since 1970, or since the history's beginning."""
    starts = [span.at_s for span in report.result.spans]
    origin_s = 0.0 if report.is_dated else report.trial.workload.start_s
    return [(at_s - origin_s) / _DAY_S for at_s in (*starts, starts[-1] + report.result.span_s)]


def _draw_waits(axes: Axes, edges: Sequence[float], report: Report) -> None:
    spans = report.result.spans
    never = [_hours(span.never_mean_wait_s) for span in spans]
    now = [_hours(span.mean_wait_s) for span in spans]
    axes.stairs(never, edges, color=_GREY, linewidth=1.2, label="nothing diverted")
    axes.stairs(now, edges, color=_BLUE, linewidth=1.6, label="this policy")
    axes.set_ylabel("mean wait, hours")
    _finish(axes, f"How long jobs wait, by when they came ({duration(report.result.span_s)} each)")


def _draw_jobs(axes: Axes, edges: Sequence[float], spans: Sequence[Span]) -> None:
    right = [float(span.diverted - span.needless) for span in spans]
    diverted = [float(span.diverted) for span in spans]
    all_told = [float(span.diverted + span.missed) for span in spans]
    axes.stairs(right, edges, fill=True, color=_GREEN, label="diverted")
    axes.stairs(diverted, edges, baseline=right, fill=True, color=_VERMILION, label="diverted needlessly")
    axes.stairs(all_told, edges, baseline=diverted, fill=True, color=_ORANGE, label="missed")
    axes.stairs([float(span.late) for span in spans], edges, color=_BLUE, linewidth=1.2, label="diverted late")
    axes.set_ylabel("jobs")
    _finish(axes, "Jobs that went, and that should have gone")


def _draw_cpus(axes: Axes, edges: Sequence[float], report: Report) -> None:
    spans = report.result.spans
    axes.stairs([span.remote_cpus_mean for span in spans], edges, fill=True, color=_BLUE, alpha=0.35, label="mean")
    axes.stairs([float(span.remote_cpus_max) for span in spans], edges, color=_BLUE, linewidth=1.2, label="at most")
    sizes = [site.cpus for site in report.trial.sites]
    known = [cpus for cpus in sizes if cpus is not None]
    if known and len(known) == len(sizes):
        axes.axhline(sum(known), color=_VERMILION, linestyle="--", linewidth=1, label="all that there are")
    axes.set_ylabel("CPUs")
    _finish(axes, "CPUs in use at the sites")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the title: it must not hide what came last.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize="small", frameon=False)


def _label_time(axes: Axes, report: Report) -> None:
    if not report.is_dated:
        axes.set_xlabel("days since the history's beginning")
        return
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415 - as above

    # As the printed report has it: this host's time.
    zone = datetime.fromtimestamp(report.trial.workload.start_s).astimezone().tzinfo
    locator = AutoDateLocator(tz=zone)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone))  # type: ignore[no-untyped-call]


def _hours(seconds: float | None) -> float:
    return math.nan if seconds is None else seconds / _HOUR_S
