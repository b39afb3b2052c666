"""The script's standard input (`--input`), readable from any offset, because a new relay may ask for it again."""

from __future__ import annotations

import os
import stat

from overspill.proxy_framing import MAX_STDIN_BYTES

CHUNK_BYTES = MAX_STDIN_BYTES
_NULL_DEVICE = os.makedev(1, 3)


class StandardInput:
    """Descriptor 0. What is no regular file is copied into an unnamed temporary file as it is read."""

    def __init__(self) -> None:
        status = os.fstat(0)
        self.is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE
        self._is_seekable = self.is_null or stat.S_ISREG(status.st_mode)
        self._fd = 0 if self._is_seekable else _unnamed_file()
        self._copied_bytes = 0
        self._is_at_end = False

    def waits_for_data(self, offset: int) -> bool:
        """Tell whether descriptor 0 must be readable before there is anything at this offset."""
        return not self._is_seekable and not self._is_at_end and offset >= self._copied_bytes

    def copy(self) -> None:
        """Read once from descriptor 0, which must be readable."""
        data = os.read(0, CHUNK_BYTES)
        self._is_at_end = not data
        self._copied_bytes += os.pwrite(self._fd, data, self._copied_bytes)

    def chunk(self, offset: int) -> bytes:
        """Return bytes from this offset on; none at the end of the input. Must not be called while it waits."""
        return os.pread(self._fd, CHUNK_BYTES, offset)


def _unnamed_file() -> int:
    return os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)  # noqa: S108 (it has no name there)
