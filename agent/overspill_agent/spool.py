"""A run's bytes on the agent's disk: standard output, standard error and standard input, append-only.

A file's length is the stream's offset, so there is nothing beside the file that a crash could make disagree with it.
Writes go to the page cache and are readable at once; they are *durable*, and acknowledged to whoever sent them, after
`sync`. A crash of the agent loses nothing; a crash of the host loses at most what was never acknowledged.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from overspill.errors import ExhaustedError, InvalidRequestError


class Stream(StrEnum):
    """The streams of a run, by their files' names."""

    STDOUT = "stdout"
    STDERR = "stderr"
    STDIN = "stdin"


@dataclass(frozen=True, slots=True)
class Reserve:
    """Disk space that is kept for the store, so that a full disk can still be told of, and freed."""

    directory: Path
    size_bytes: int

    def check(self, wanted_bytes: int) -> None:
        """Refuse to take so much more of the disk.

        Raises:
            ExhaustedError: it would cut into the reserve.
        """
        disk = os.statvfs(self.directory)
        if disk.f_bavail * disk.f_frsize < self.size_bytes + wanted_bytes:
            raise ExhaustedError(f"the agent's disk is full but for its reserve ({self.directory})")


class GapError(InvalidRequestError):
    """Bytes were offered that do not begin where the stream ends, or earlier."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes and where in their stream they belong."""

    stream: Stream
    offset: int
    data: bytes


class _OpenFile:
    """A descriptor that is closed when nobody uses it any more, so that a reader never meets one that is another's."""

    __slots__ = ("fd",)

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        os.close(self.fd)


class Spool:
    """The files of one run, opened when first needed.

    Methods that say so block on the disk: call them off the event loop. No two threads may be in `append` at once;
    everything else may run beside it.
    """

    def __init__(self, directory: Path, reserve: Reserve) -> None:
        """Take up the run's files in `directory` where an earlier agent left them. Touches the disk only to look."""
        self._directory = directory
        self._reserve = reserve
        self._files: dict[Stream, _OpenFile] = {}
        self._lengths = {stream: _length(directory / stream) for stream in Stream}
        self._durable = dict.fromkeys(Stream, 0)

    def length(self, stream: Stream) -> int:
        """Return the bytes that are there to be read."""
        return self._lengths[stream]

    def durable(self, stream: Stream) -> int:
        """Return the bytes that survive a crash of the host."""
        return self._durable[stream]

    @property
    def is_dirty(self) -> bool:
        return self._durable != self._lengths

    def append(self, pieces: list[Piece]) -> None:
        """Write what of `pieces` is new. Blocks.

        Raises:
            GapError: a piece begins beyond its stream's end; the pieces before it are kept.
            ExhaustedError: the disk is full; nothing was written, or what was written is counted.
        """
        self._reserve.check(sum(len(piece.data) for piece in pieces))
        try:
            self._append(pieces)
        except OSError as error:
            raise ExhaustedError(f"the agent cannot keep a run's bytes: {error.strerror}") from error

    def _append(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            have = self._lengths[piece.stream]
            if piece.offset > have:
                raise GapError(f"{piece.stream} continues at {have}, not at {piece.offset}")
            self._write(piece.stream, memoryview(piece.data)[have - piece.offset :])

    def _write(self, stream: Stream, data: memoryview) -> None:
        file = self._open(stream)
        while data:
            written = os.pwrite(file.fd, data, self._lengths[stream])
            self._lengths[stream] += written
            data = data[written:]

    def sync(self) -> None:
        """Make durable what was written before the call. Blocks; a repeated call costs nothing if nothing was written.

        Raises:
            ExhaustedError: the disk does not take it; nothing more is durable than before.
        """
        for stream, length in list(self._lengths.items()):
            if self._durable[stream] < length:
                try:
                    os.fdatasync(self._open(stream).fd)
                except OSError as error:
                    raise ExhaustedError(f"the agent cannot keep a run's bytes: {error.strerror}") from error
                self._durable[stream] = length

    def read(self, stream: Stream, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer at the end. Blocks if the bytes are no longer cached."""
        size = min(size, self._lengths[stream] - offset)
        return os.pread(self._open(stream).fd, size, offset) if size > 0 else b""

    def read_cached(self, stream: Stream, offset: int, size: int) -> bytes | None:
        """Do as `read` if that needs no disk, else return None. Never blocks."""
        size = min(size, self._lengths[stream] - offset)
        if size <= 0:
            return b""
        data = bytearray(size)
        try:
            count = os.preadv(self._open(stream).fd, [data], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        return bytes(memoryview(data)[:count]) or None

    def truncate(self, stream: Stream, length: int) -> None:
        """Cut a stream that is longer than what is known to be right: the tail of a write that a crash tore."""
        if self._lengths[stream] > length:
            os.ftruncate(self._open(stream).fd, length)
            self._lengths[stream] = length
            self._durable[stream] = min(self._durable[stream], length)

    def close(self) -> None:
        """Let go of the files; they are opened again when needed."""
        self._files.clear()

    def remove(self) -> None:
        """Forget every byte. Blocks."""
        self.close()
        self._lengths = dict.fromkeys(Stream, 0)
        self._durable = dict.fromkeys(Stream, 0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _open(self, stream: Stream) -> _OpenFile:
        file = self._files.get(stream)
        if file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = self._files.setdefault(stream, _OpenFile(self._directory / stream))
        return file


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
