"""The user's output: bytes go to the descriptors that slurmstepd opened, in the order of their offsets, each once.

When the user's file takes no more (no space, quota, I/O error), a local script gets the error from its own write and
mostly goes on without those bytes. The script here is far away, its write has long succeeded, and nobody can tell it
now. So the proxy keeps the bytes and tries again for `PATIENCE_S`, while back-pressure holds the script: space may
come back, and nothing is lost then. After that it drops what the file refuses, as a local write would have been
dropped, and takes no more breaks until a write succeeds. A loss is never silent: `loss()` says what the proxy's end
must tell. Where nobody reads a FIFO any more, nothing is worth waiting for.
"""

from __future__ import annotations

import errno
import os
import select
import stat

#: How long refused output is kept before it is dropped.
PATIENCE_S = 60.0
RETRY_S = 1.0
#: What poll(2) guarantees room for when it calls a FIFO writable: a blocking write of no more does not block.
_PIPE_BUF = 4096
_NOT_WORTH_WAITING = {errno.EPIPE, errno.EBADF, errno.EFBIG, errno.ECONNRESET}


class Output:
    """One of the script's output streams."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        mode = os.fstat(fd).st_mode
        self._is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self._pending = memoryview(b"")
        self._give_up_at: float | None = None
        self._is_patient = True
        self._lost_bytes = 0
        self._lost_to = ""
        self.retry_at = 0.0
        #: Bytes that are dealt with, from the stream's beginning.
        self.offset = 0

    @property
    def is_pending(self) -> bool:
        """Whether bytes wait for the file; nothing may be given until they have gone."""
        return bool(self._pending)

    @property
    def waits_for_room(self) -> bool:
        """Whether the descriptor's POLLOUT tells when to go on."""
        return self.is_pending and self._give_up_at is None

    @property
    def waits_for_retry(self) -> bool:
        """Whether the file refused the bytes, and `retry_at` (monotonic seconds) tells when to go on."""
        return self.is_pending and self._give_up_at is not None

    def give(self, offset: int, data: bytes) -> None:
        """Take bytes to be written by `flush`. What was written already is skipped.

        Raises:
            ValueError: if bytes are missing in between; the peer must be asked again.
        """
        if offset > self.offset:
            raise ValueError(f"output continues at byte {offset}, {self.offset} are written")
        self._pending = memoryview(data)[self.offset - offset :]

    def flush(self, now: float) -> None:
        """Write what is pending, as far as the file takes it."""
        if self.waits_for_retry and now < self.retry_at:
            return
        while self._pending and (not self._is_pipe or self._has_room()):
            try:
                written = os.write(self.fd, self._pending[:_PIPE_BUF] if self._is_pipe else self._pending)
            except BlockingIOError:
                return
            except OSError as error:
                if not self._is_dropped(error, now):
                    return
            else:
                self._give_up_at = None
                self._is_patient = True
                self._advance(written)

    def loss(self) -> str:
        """Return what could not be written, as half a sentence; empty where all was."""
        return f"{self._lost_bytes} bytes of output could not be written: {self._lost_to}" if self._lost_bytes else ""

    def _has_room(self) -> bool:
        poller = select.poll()
        poller.register(self.fd, select.POLLOUT)
        return bool(poller.poll(0))

    def _is_dropped(self, error: OSError, now: float) -> bool:
        if self._is_patient and error.errno not in _NOT_WORTH_WAITING:
            self._give_up_at = self._give_up_at or now + PATIENCE_S
            self.retry_at = now + RETRY_S
            if now < self._give_up_at:
                return False
        self._is_patient = False
        self._give_up_at = None
        self._lost_bytes += len(self._pending)
        self._lost_to = os.strerror(error.errno or errno.EIO)
        self._advance(len(self._pending))
        return True

    def _advance(self, count: int) -> None:
        self._pending = self._pending[count:]
        self.offset += count
