"""Progress that a person can watch: one line per step, with the seconds since the beginning."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str], None]


def printed() -> Progress:
    """Return a function that prints a step with the time since this call."""
    began = time.monotonic()

    def show(step: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {step}", flush=True)

    return show


def silent(step: str) -> None:
    """Say nothing."""
