"""Polling with a deadline: the only way anything waits in the rig."""

from __future__ import annotations

import time
from collections.abc import Callable


def poll(is_done: Callable[[], bool], *, timeout_s: float, interval_s: float = 0.02) -> bool:
    """Call `is_done` until it returns true or the time is over; return which.

    `is_done` raises to end the waiting early when it sees that success has become impossible.
    """
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True
