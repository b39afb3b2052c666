"""Signals that slurmstepd sends to the batch script: caught here, numbered, kept until the agent has them.

`_signal` is the C half of the standard library's `signal`, whose Python half does nothing but wrap numbers into enums
and takes 2 ms for it, at the start of every job.
"""

from __future__ import annotations

import os

from overspill.proxy_framing import MAX_UNACKNOWLEDGED_SIGNALS, SIGNAL, FrameType, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType as StackFrame
else:
    import _signal as signal

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
_NOT_CATCHABLE = {signal.SIGKILL, signal.SIGSTOP, 32, 33}  # glibc keeps 32 and 33 to itself
#: What is sent on: all but the proxy's own faults and children. Its SIGPIPE and SIGXFSZ are sent on, too: where the
#: user's file answers a write with a signal, a local script would have got it.
FORWARDED = [n for n in range(1, signal.NSIG) if n not in _FAULTS | _NOT_CATCHABLE | {signal.SIGCHLD}]
#: Whoever sends one of these wants the job to be over; others speak to a script that knows them, and wait for it.
ENDING = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGTERM}
#: Signals that end no process by default: signal(7).
HARMLESS = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}


class CaughtSignals:
    """The signals of this process, as a file descriptor to poll."""

    def __init__(self) -> None:
        self.fd, wakeup_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        for number in FORWARDED:
            signal.signal(number, _note)
        # spank_overspill.so may have blocked them, for none to meet an interpreter that is still starting.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def take(self) -> bytes:
        """Return the numbers of the signals that have come since, one byte each, in order."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""


#: From so many kept signals on, one that is kept already is dropped: with one of each number, all stay in the limit.
_MANY = MAX_UNACKNOWLEDGED_SIGNALS - signal.NSIG


class UnacknowledgedSignals:
    """Signals that the agent may not have yet, oldest first, with their sequence numbers."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, int]] = []
        self._last_seq = 0

    def add(self, number: int, *, is_connected: bool) -> bytes:
        """Number a signal, keep it and return its frame.

        While nobody hears of it, a signal that repeats the one before is dropped, as a process would find a blocked
        signal pending once only.
        """
        if not is_connected and self._kept and self._kept[-1][1] == number:
            return b""
        if len(self._kept) >= _MANY and any(kept == number for _, kept in self._kept):
            return b""
        self._last_seq += 1
        self._kept.append((self._last_seq, number))
        return encode(FrameType.SIGNAL, SIGNAL.pack(self._last_seq, number))

    def acknowledge(self, seq: int) -> None:
        """Forget the signals up to this sequence number."""
        self._kept = [kept for kept in self._kept if kept[0] > seq]

    def frames(self) -> bytes:
        """Return the frames of all that is kept, to follow an opening."""
        return b"".join(encode(FrameType.SIGNAL, SIGNAL.pack(seq, number)) for seq, number in self._kept)


def _note(_number: int, _frame: StackFrame | None) -> None:
    """Do nothing: the wake-up descriptor tells. A handler must exist for the default action not to be taken."""
