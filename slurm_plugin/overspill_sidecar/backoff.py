"""Waiting a little longer after each failure."""

from __future__ import annotations

import asyncio
import random

_FIRST_S = 0.2
_LONGEST_S = 5.0


class Backoff:
    """0.2 s, doubling to 5 s, each a fifth more or less, so that many jobs do not come back at once."""

    def __init__(self) -> None:
        self._next_s = _FIRST_S

    def reset(self) -> None:
        """Begin anew: the last attempt succeeded."""
        self._next_s = _FIRST_S

    async def wait(self) -> None:
        """Sleep for the time that is due."""
        due_s = self._next_s
        self._next_s = min(_LONGEST_S, due_s * 2)
        await asyncio.sleep(due_s * random.uniform(0.8, 1.2))  # noqa: S311 - nothing secret about it
