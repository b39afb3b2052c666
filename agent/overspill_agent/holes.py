"""Room back from the beginning of a file that goes on growing: holes, which Python's library cannot punch."""

from __future__ import annotations

import ctypes
import errno
import os

# Source: linux/falloc.h.
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
#: What file systems answer that know no holes.
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Give `size` bytes from `offset` back to the disk; the file keeps its length. Blocks.

    Nothing happens where the file system knows no holes.

    Raises:
        OSError: the disk does not take it.
    """
    if _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, size) == 0:
        return
    number = ctypes.get_errno()
    if number not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number))
