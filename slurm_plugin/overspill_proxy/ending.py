"""How the proxy ends: exactly as the script did."""

from __future__ import annotations

import os
import resource

from overspill_proxy.signals import FORWARDED, HARMLESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal  # see signals.py

#: What a script that ended with 0 ends with where its output could not be written: EX_IOERR of sysexits.h.
EXIT_OUTPUT_LOST = 74
_SHELL_SIGNAL_BASE = 128


class Ending:
    """An exit code, or the signal that ended the script, and what the user must be told besides."""

    __slots__ = ("exit_code", "message", "signal")

    def __init__(self, exit_code: int = 0, signal_number: int = 0, message: str = "") -> None:
        self.exit_code = exit_code
        self.signal = signal_number
        self.message = message


def parse(payload: bytes) -> Ending:
    """Read an END frame's payload.

    Raises:
        ValueError: if it is none.
    """
    import json  # noqa: PLC0415 (needed once, at the end: 4 ms and 1 MB that no waiting proxy has to carry)

    end = json.loads(payload)
    if not isinstance(end, dict) or not ({"exit_code", "signal"} & end.keys()):
        raise ValueError(f"END without an exit code or a signal: {payload[:200]!r}")
    return Ending(int(end.get("exit_code", 0)), int(end.get("signal", 0)), str(end.get("message", "")))


def with_loss(end: Ending, losses: list[str]) -> Ending:
    """Return the end with what the user lost said, and not as a success: see output.py."""
    lost = [loss for loss in losses if loss]
    if not lost:
        return end
    exit_code = end.exit_code or (0 if end.signal else EXIT_OUTPUT_LOST)
    return Ending(exit_code, end.signal, "; ".join(filter(None, [end.message, *lost])))


def end_like(end: Ending) -> NoReturn:
    """End this process by the same exit code or the same signal, without a core file and without a word of Python's.

    A signal that ends no process (none of them can have ended the script, but a peer may say so) becomes the exit
    code that a shell would give it.
    """
    if end.message:
        _write_all(2, line_for_user(end.message).encode(errors="replace"))
    if end.signal:
        _die_by(end.signal)
        os._exit((_SHELL_SIGNAL_BASE + end.signal) & 0xFF)
    os._exit(end.exit_code & 0xFF)


def line_for_user(message: str) -> str:
    """Return the message as one line. Some of its words are a site's, and must not move the reader's cursor."""
    words = " ".join(message.split())
    return "overspill: " + "".join(char for char in words if char.isprintable()) + "\n"


def _die_by(number: int) -> None:
    """Send this process a signal in its default disposition; return where that did not end it."""
    if number in HARMLESS or not 0 < number < signal.NSIG:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _write_all(fd: int, data: bytes) -> None:
    """Write as far as the file takes it; the proxy is about to end and has nobody else to tell."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return
