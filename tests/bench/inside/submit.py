"""Runs commands and times each from its start to its end; fed by JSON on standard input.

In: {"commands": {label: argv}, "order": [label, ...], "at_once": 1, "period_s": 0.02}. With `at_once` 1, a command
starts every `period_s` at the earliest. Out: {"latencies_ms": {label: [...]}, "took_s": seconds}.
Ends with 1 at the first command that fails: a refused submission is a fast one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict


class Order(TypedDict):
    """What to do."""

    commands: dict[str, list[str]]
    order: list[str]
    at_once: int
    period_s: float


def _timed_ms(argv: list[str]) -> float:
    # posix_spawn and not subprocess: it costs the same however large this process is.
    silent = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    began = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=silent)
    _, status = os.waitpid(pid, 0)
    took_ms = (time.perf_counter() - began) * 1e3
    if status != 0:
        raise SystemExit(f"{' '.join(argv)}: exit code {os.waitstatus_to_exitcode(status)}")
    return took_ms


def _paced_ms(order: Order) -> list[float]:
    samples = []
    due = time.monotonic()
    for label in order["order"]:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic()) + order["period_s"]
        samples.append(_timed_ms(order["commands"][label]))
    return samples


def _crowd_ms(order: Order) -> list[float]:
    with ThreadPoolExecutor(order["at_once"]) as pool:
        return list(pool.map(_timed_ms, (order["commands"][label] for label in order["order"])))


def main() -> None:
    """Obey the order on standard input."""
    order: Order = json.load(sys.stdin)
    began = time.perf_counter()
    samples = _crowd_ms(order) if order["at_once"] > 1 else _paced_ms(order)
    took_s = time.perf_counter() - began
    latencies: dict[str, list[float]] = {label: [] for label in order["commands"]}
    for label, took_ms in zip(order["order"], samples, strict=True):
        latencies[label].append(took_ms)
    json.dump({"latencies_ms": latencies, "took_s": took_s}, sys.stdout)


if __name__ == "__main__":
    main()
