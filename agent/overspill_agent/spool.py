"""A run's bytes on the agent's disk: standard output, standard error and standard input, append-only.

A file's length is the stream's offset, so there is nothing beside the file that a crash could make disagree with it.
Output that the cluster has acknowledged is given back to the disk: the file becomes a hole at its beginning, and where
the hole ends is on disk before there is one, so that its zeros are never taken for output.

Writes go to the page cache and are readable at once; they are *durable*, and acknowledged to whoever sent them, after
`sync`. A crash of the agent loses nothing; a crash of the host loses at most what was never acknowledged.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from overspill.errors import ExhaustedError, InvalidRequestError
from overspill_agent.holes import punch_hole

#: Acknowledged output is freed in multiples of this: each time costs a write that waits for the disk.
FREE_BYTES = 1024 * 1024
#: The file beside the streams that says up to where standard output and standard error are freed.
_FREED_NAME = "freed"
_FREED = struct.Struct(">QQ")


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


class FreedError(InvalidRequestError):
    """Bytes were asked for that were acknowledged, and freed."""


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
        self._freed = _read_freed(directory / _FREED_NAME)
        self._punched = dict.fromkeys(self._freed, 0)
        self._acknowledged = dict(self._freed)
        self._freeing = threading.Lock()
        self._is_removed = False
        self._syncing = threading.Lock()
        self._is_torn = False

    def length(self, stream: Stream) -> int:
        """Return the bytes that are there to be read."""
        return self._lengths[stream]

    def durable(self, stream: Stream) -> int:
        """Return the bytes that survive a crash of the host."""
        return self._durable[stream]

    def kept_bytes(self) -> int:
        """Return what the streams take of the disk, but for the last blocks."""
        return sum(self._lengths.values()) - sum(self._freed.values())

    @property
    def is_dirty(self) -> bool:
        return self._durable != self._lengths

    def append(self, pieces: list[Piece]) -> None:
        """Write what of `pieces` is new, after `cut_torn`. Blocks.

        Raises:
            GapError: a piece begins beyond its stream's end; the pieces before it are kept.
            ExhaustedError: the disk is full; nothing was written, or what was written is counted.
        """
        self.cut_torn()
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
            ExhaustedError: the disk does not take it, or did not the last time; nothing more is durable than before.
        """
        with self._syncing:
            if self._is_torn:
                raise ExhaustedError("the agent's disk has lost some of a run's bytes; they are to be sent again")
            for stream, length in list(self._lengths.items()):
                if self._durable[stream] < length:
                    self._sync(stream)
                    self._durable[stream] = length

    def _sync(self, stream: Stream) -> None:
        try:
            os.fdatasync(self._open(stream).fd)
        except OSError as error:
            self._is_torn = True
            raise ExhaustedError(f"the agent cannot keep a run's bytes: {error.strerror}") from error

    def cut_torn(self) -> None:
        """After a sync that failed, forget what is not durable: who sent it has it still. Blocks. Not beside `append`.

        The kernel tells such a failure once; a later sync would succeed without the bytes that were lost.
        """
        with self._syncing:
            if self._is_torn:
                for stream, durable in self._durable.items():
                    self.truncate(stream, durable)
                self._is_torn = False

    def read(self, stream: Stream, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer at the end. Blocks if the bytes are no longer cached.

        Raises:
            FreedError: they are not there any more.
        """
        size = min(size, self._lengths[stream] - offset)
        data = os.pread(self._open(stream).fd, size, offset) if size > 0 else b""
        self._check_kept(stream, offset, data)
        return data

    def read_cached(self, stream: Stream, offset: int, size: int) -> bytes | None:
        """Do as `read` if that needs no disk, else return None. Never blocks.

        Raises:
            FreedError: as `read` does.
        """
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
        self._check_kept(stream, offset, data)
        return bytes(memoryview(data)[:count]) or None

    def _check_kept(self, stream: Stream, offset: int, data: bytes | bytearray) -> None:
        """Call after reading: what is noted as freed only now was still whole when it was read."""
        if data and offset < self._freed.get(stream, 0):
            raise FreedError(
                f"{stream} was freed up to {self._freed[stream]}, as acknowledged; {offset} is before that"
            )

    def acknowledge(self, offsets: Mapping[Stream, int]) -> None:
        """Take note that the cluster has the output before `offsets`; `free` acts upon it."""
        self._acknowledged = {stream: max(have, offsets[stream]) for stream, have in self._acknowledged.items()}

    @property
    def is_freeable(self) -> bool:
        return self._freeable() != self._freed

    def _freeable(self) -> dict[Stream, int]:
        return {
            stream: max(have, min(self._acknowledged[stream], self._durable[stream]) // FREE_BYTES * FREE_BYTES)
            for stream, have in self._freed.items()
        }

    def free(self) -> None:
        """Give back to the disk what is acknowledged, in whole `FREE_BYTES` and as far as it is durable.

        Blocks. It is not read again, even where the file system cannot give it back.

        Raises:
            ExhaustedError: the disk does not take it now; nothing that can still be read was freed.
        """
        with self._freeing:
            freed = self._freeable()
            if freed == self._freed or self._is_removed:
                return
            try:
                self._note_freed(freed)
                self._punch(freed)
            except OSError as error:
                raise ExhaustedError(f"acknowledged output cannot be freed: {error.strerror}") from error

    def _note_freed(self, freed: dict[Stream, int]) -> None:
        """Have the offsets on disk, then in memory; readers that look later are refused."""
        path = self._directory / _FREED_NAME
        is_new = not path.exists()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, _FREED.pack(freed[Stream.STDOUT], freed[Stream.STDERR]), 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        if is_new:
            _sync_directory(self._directory)
        self._freed = freed

    def _punch(self, freed: dict[Stream, int]) -> None:
        """Punch the holes, after a restart from the beginning: the last agent may have come to note them only."""
        for stream, end in freed.items():
            start = self._punched[stream]
            if start < end:
                punch_hole(self._open(stream).fd, start, end - start)
                self._punched[stream] = end

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
        with self._freeing:
            self._is_removed = True
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


def _read_freed(path: Path) -> dict[Stream, int]:
    """Return up to where output is freed; a file that is not whole yet was never acted upon."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    stdout, stderr = _FREED.unpack(content) if len(content) == _FREED.size else (0, 0)
    return {Stream.STDOUT: stdout, Stream.STDERR: stderr}


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
