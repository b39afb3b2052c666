"""The bench's command line, behind `make bench`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from typing import IO

import click
from rich.console import Console
from rich.table import Table

from tests.bench import (
    back_ends,
    burst,
    cancellation,
    crowd,
    first_line,
    idle_jobs,
    launch_rate,
    output_latency,
    proxies,
    queue_readers,
    slurm_facts,
    submission,
    throughput,
    wait_model,
)
from tests.bench.bench import Bench, BenchError, bench_rig
from tests.bench.figure import Figure
from tests.rig import SiteBackend
from tests.rig.errors import RigError
from tests.rig.progress import Progress

Measure = Callable[[Bench], Iterator[Figure]]

#: In the order they are taken; `submission` leaves thousands of ended jobs behind and comes last.
_ON_THE_LOCAL_BACK_END: Mapping[str, Measure] = {
    "first-line": first_line.measure,
    "output-latency": output_latency.measure,
    "cancellation": cancellation.measure,
    "throughput": throughput.measure,
    "burst": burst.measure,
    "launch-rate": launch_rate.measure,
    "proxies": proxies.measure,
    "idle-jobs": idle_jobs.measure,
    "crowd": crowd.measure,
    "queue-readers": queue_readers.measure,
    "submission": submission.measure,
    "wait-model": wait_model.measure,
}
#: Which back end, and what is measured on a rig that has it.
MEASUREMENTS: Mapping[str, tuple[SiteBackend, Measure]] = {
    **{name: (SiteBackend.LOCAL, measure) for name, measure in _ON_THE_LOCAL_BACK_END.items()},
    # Minutes of simulation, and nothing of the rig's: wants to be asked for, too.
    "slurm-facts": (SiteBackend.LOCAL, slurm_facts.measure),
    **back_ends.MEASUREMENTS,
}
_WIDTH_IN_A_LOG = 170


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "output", type=click.File("w", lazy=False), help="Write the JSON lines here, not to stdout.")
@click.option("--list", "is_listing", is_flag=True, help="Print the names and what each measures, and do nothing.")
def main(names: tuple[str, ...], output: IO[str] | None, *, is_listing: bool) -> None:
    """Measure Overspill against its peers on a private cluster: the measurements NAME.

    By default all against plain Slurm. Those of a back end have its name first, and want to be asked for.

    Nothing is asserted: a figure stands beside its peer's from the same run. Progress and table go to stderr.

    \b
    Examples:
      python -m tests.bench
      python -m tests.bench first-line cancellation
      python -m tests.bench docker-first-line condor-first-line
      python -m tests.bench --json figures.jsonl submission
    """
    if is_listing:
        for name, (_, measure) in MEASUREMENTS.items():
            click.echo(f"{name:17} {_summary(measure)}")
        return
    if unknown := set(names) - MEASUREMENTS.keys():
        raise click.UsageError(
            f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}"
        )
    chosen = [name for name in MEASUREMENTS if name in (names or _ON_THE_LOCAL_BACK_END)]
    try:
        figures = _measure(chosen, output or sys.stdout)
    except (BenchError, RigError) as error:
        raise click.ClickException(str(error)) from error
    Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH_IN_A_LOG).print(_table(figures))


def _measure(names: list[str], output: IO[str]) -> list[tuple[str, Figure]]:
    """Take the measurements; write each figure as soon as it is known."""
    show = _on_stderr()
    figures = []
    show(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.2f}")
    for backend, of_backend in groupby(names, key=lambda name: MEASUREMENTS[name][0]):
        with bench_rig(lambda step: show(f"rig: {step}"), backend) as bench:
            for name in of_backend:
                show(name)
                bench.say = partial(_say_of, show, name)
                for figure in MEASUREMENTS[name][1](bench):
                    output.write(json.dumps(figure.as_record(name)) + "\n")
                    output.flush()
                    figures.append((name, figure))
    show(f"done, load average {os.getloadavg()[0]:.2f}")
    return figures


def _summary(measure: Measure) -> str:
    """Return the first line of what documents a measurement: its function, or its module."""
    function = measure.func if isinstance(measure, partial) else measure
    return (function.__doc__ or sys.modules[function.__module__].__doc__ or "").partition("\n")[0]


def _on_stderr() -> Progress:
    """Return a function that shows a step with the seconds since this call; stdout is for the figures."""
    began = time.monotonic()

    def show(step: str) -> None:
        click.echo(f"[{time.monotonic() - began:5.1f} s] {step}", err=True)

    return show


def _say_of(show: Progress, name: str, step: str) -> None:
    show(f"{name}: {step}")


def _table(figures: list[tuple[str, Figure]]) -> Table:
    table = Table(title="Overspill against its peer, in the same run")
    for heading in ("Measurement", "Figure", "Overspill", "Peer", "Ratio", "Unit", "Against", "Budget"):
        is_number = heading in {"Overspill", "Peer", "Ratio"}
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    previous = ""
    for name, figure in figures:
        peer = "" if figure.peer is None else f"{figure.peer:.2f}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}x"
        numbers = (f"{figure.overspill:.2f}", peer, ratio)
        shown = "" if name == previous else name
        table.add_row(shown, figure.what, *numbers, figure.unit, figure.against, figure.budget)
        previous = name
    return table
