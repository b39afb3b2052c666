"""The wait model before a judge: `python -m tests.bench.judge eval_wait.py TRACES`.

The judge replays recorded queues and speaks JSON lines with `overspill-sidecar wait-model --stdio`; neither it nor the
recorded queues are part of the project (the logs come without a licence). What it prints becomes a table here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

_COMMAND = "exec:overspill-sidecar wait-model --stdio"
_RUN_S = 3600.0
_OPEN = (
    "| log | base rate | F1 | AUC | Brier skill | coverage of the 95 % bound | bound/wait, median | predict p50 | p99 |"
)
_CLOSED = "| log, order | F1 | precision | recall | diverted | mean wait | predict p50 | p99 |"


@click.command()
@click.argument("judge", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("traces", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seed", default=7, show_default=True, help="Relabels, rescales and picks the window; 0: none of it.")
@click.option("--closed", is_flag=True, help="Simulate the site and divert, instead of scoring the recorded waits.")
@click.option("--no-trees", is_flag=True, help="The model alone, as without the extra.")
def main(judge: Path, traces: Path, seed: int, *, closed: bool, no_trees: bool) -> None:
    """Let JUDGE score the wait model on every *.csv.gz in TRACES, and print a table at a threshold of 30 minutes."""
    command = _COMMAND + (" --no-trees" if no_trees else "")
    rows = _closed_rows if closed else _open_rows
    click.echo(_CLOSED if closed else _OPEN)
    click.echo("|" + "---|" * (_CLOSED if closed else _OPEN).count("| "))
    for trace in sorted(traces.glob("*.csv.gz")):
        for row in rows(judge, trace, command, seed):
            click.echo(row)


def _open_rows(judge: Path, trace: Path, command: str, seed: int) -> Iterator[str]:
    said = _run(judge, "open", trace, command, seed)
    at, latency = said["t1800"], said["predict"]
    yield (
        f"| {said['trace']} | {at['base_rate']:.2f} | {at['f1']:.3f} | {at['auc']:.3f} | {at['brier_skill']:+.3f} |"
        f" {said['upper95_coverage']:.3f} | {said['upper95_median_ratio']:.1f} |{_latency(latency)}"
    )


def _closed_rows(judge: Path, trace: Path, command: str, seed: int) -> Iterator[str]:
    for order in ("fifo", "fair"):
        said = _run(judge, "closed", trace, command, seed, "--order", order)
        precision, recall = said["div_precision"], said["div_recall"]
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        yield (
            f"| {said['trace']}, {order} | {f1:.3f} | {precision:.3f} | {recall:.3f} | {said['diverted']:.3f} |"
            f" {said['mean_wait']:.0f} s |{_latency(said['latency'])}"
        )


def _latency(latency: Mapping[str, float]) -> str:
    return f" {latency['p50_us'] / 1e3:.2f} ms | {latency['p99_us'] / 1e3:.1f} ms |"


def _run(judge: Path, mode: str, trace: Path, command: str, seed: int, *options: str) -> Mapping[str, Any]:
    """Return what the judge prints.

    Raises:
        CalledProcessError: if it fails; what it says has gone to our stderr.
    """
    argv = [sys.executable, str(judge), mode, str(trace), command, "--seed", str(seed), *options]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    ran = subprocess.run(
        argv, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True, timeout=_RUN_S, check=True
    )
    said: Mapping[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return said


if __name__ == "__main__":
    main()
