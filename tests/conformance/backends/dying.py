"""Has this process's agent die in mid-verb: at a system call that Python announces to its audit hooks.

Only what runs in the context of the test, threads of `asyncio.to_thread` included, is counted; the runner channel and
whatever else this process does goes on. Source: https://docs.python.org/3/library/audit_events.html.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tests.conformance.backends.place import DeathError

#: What changes something outside, or may.
STEPS = frozenset(
    {
        *("open", "fcntl.flock", "subprocess.Popen", "socket.connect", "http.client.send"),
        *("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate"),
        *("os.chmod", "os.chown", "os.utime", "os.kill", "signal.pidfd_send_signal", "shutil.rmtree"),
    }
)


@dataclass
class Countdown:
    """Steps that an agent may take still."""

    steps_left: int
    steps: frozenset[str] = STEPS
    has_come: bool = False

    def take(self) -> None:
        """Count one step.

        Raises:
            DeathError: it is the last one, or after it.
        """
        self.steps_left -= 1
        if self.steps_left <= 0:
            self.has_come = True
            raise DeathError


_countdown: ContextVar[Countdown | None] = ContextVar("countdown", default=None)


def _on_audit(event: str, arguments: tuple[object, ...]) -> None:
    countdown = _countdown.get(None)
    if countdown is None:
        return
    if event in countdown.steps and (event != "open" or _is_for_writing(arguments[2])):
        countdown.take()


def _is_for_writing(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


sys.addaudithook(_on_audit)  # for good: hooks cannot be taken back


@contextmanager
def dying_at_system_call(step: int, steps: frozenset[str] = STEPS) -> Iterator[Countdown]:
    """Have the agent die at its system call number `step` of those that are steps; `open` only for writing."""
    countdown = Countdown(step, steps)
    token = _countdown.set(countdown)
    try:
        yield countdown
    finally:
        _countdown.reset(token)
