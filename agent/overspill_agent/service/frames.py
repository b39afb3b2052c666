"""Frames out of the pieces in which an upload arrives. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from overspill.errors import InvalidRequestError
from overspill.runner_protocol import FRAME_HEADER, MAX_FRAME_BYTES, RunnerFrame


@dataclass(frozen=True, slots=True)
class Frame:
    """`number` is the byte offset of output, the sequence number of a report."""

    kind: RunnerFrame
    number: int
    payload: bytes


class FrameParser:
    """Takes bytes as they come and gives the frames that are whole."""

    def __init__(self) -> None:
        """Begin at the beginning of an upload's body."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes, in order. Exhaust it before the next call.

        Raises:
            InvalidRequestError: this is no frame; the rest of the body is useless.
        """
        self._buffer += data
        start = 0
        while (end := start + FRAME_HEADER.size) <= len(self._buffer):
            number_of_kind, length, number = FRAME_HEADER.unpack_from(self._buffer, start)
            kind = _kind(number_of_kind)
            if length > MAX_FRAME_BYTES:
                raise InvalidRequestError(f"frame of {length} bytes, at most {MAX_FRAME_BYTES} are allowed")
            if len(self._buffer) < end + length:
                break
            yield Frame(kind, number, bytes(memoryview(self._buffer)[end : end + length]))
            start = end + length
        del self._buffer[:start]


def _kind(number: int) -> RunnerFrame:
    try:
        return RunnerFrame(number)
    except ValueError:
        raise InvalidRequestError(f"frame type {number} does not exist") from None
