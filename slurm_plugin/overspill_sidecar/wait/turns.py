"""Who may use the wait model now: one at a time, and a submission before everybody else."""

from __future__ import annotations

import threading


class Turns:
    """A lock with which somebody who is in a hurry has the next turn. As a context manager, a turn without hurry.

    Python's locks are fair to nobody: a thread that gives one up and takes it again at once, event after event, wins
    against a thread that has to be woken first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: How many in a hurry wait; changed under `_counting`.
        self._hurrying = 0
        self._counting = threading.Lock()
        self._nobody_hurries = threading.Event()
        self._nobody_hurries.set()

    def __enter__(self) -> None:
        """Wait for a turn."""
        self._nobody_hurries.wait()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def take_next(self, patience_s: float) -> bool:
        """Have the next turn; tell whether it came within `patience_s`. Of several in a hurry any may be first."""
        if self._lock.acquire(blocking=False):
            return True
        self._count(1)
        try:
            return self._lock.acquire(timeout=patience_s)
        finally:
            self._count(-1)

    def give_up(self) -> None:
        """End a turn that `take_next` gave."""
        self._lock.release()

    def _count(self, change: int) -> None:
        with self._counting:
            self._hurrying += change
            if self._hurrying:
                self._nobody_hurries.clear()
            else:
                self._nobody_hurries.set()
