"""HTTP/2 frames as bytes. Pure. Source: RFC 9113, sections 4 and 6."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
#: The default of SETTINGS_MAX_FRAME_SIZE, which we do not raise.
MAX_FRAME_BYTES = 16384
DEFAULT_WINDOW_BYTES = 65535
MAX_WINDOW_BYTES = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

MAX_CONCURRENT_STREAMS_SETTING = 3
INITIAL_WINDOW_SETTING = 4
MAX_FRAME_SETTING = 5

_PRIORITY_BYTES = 5
_SETTING = struct.Struct(">HI")
_UINT32 = struct.Struct(">I")


class ProtocolError(Exception):
    """The peer does not speak HTTP/2 as it should; the connection is of no use any more."""


@dataclass(frozen=True, slots=True)
class Frame:
    type: int
    flags: int
    stream_id: int
    payload: bytes


def encode(frame_type: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((frame_type, flags)) + stream_id.to_bytes(4, "big")
    return head + payload


def encode_settings(settings: Iterable[tuple[int, int]]) -> bytes:
    return encode(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))


def encode_window_update(stream_id: int, increment_bytes: int) -> bytes:
    return encode(WINDOW_UPDATE, 0, stream_id, _UINT32.pack(increment_bytes))


def read_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the whole frames at the beginning of `data`, and what is left.

    Raises:
        ProtocolError: for a frame above MAX_FRAME_BYTES.
    """
    frames = []
    at = 0
    while len(data) - at >= HEADER_BYTES:
        length = int.from_bytes(data[at : at + 3], "big")
        if length > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {length} bytes")
        payload_at = at + HEADER_BYTES
        if len(data) < payload_at + length:
            break
        stream_id = int.from_bytes(data[at + 5 : payload_at], "big") & MAX_WINDOW_BYTES
        at = payload_at + length
        frames.append(Frame(data[payload_at - 6], data[payload_at - 5], stream_id, data[payload_at:at]))
    return frames, data[at:]


def content(frame: Frame) -> bytes:
    """Return the payload of a DATA or HEADERS frame without padding and priority.

    Raises:
        ProtocolError: if the padding is longer than the payload.
    """
    if not frame.flags & (PADDED | PRIORITISED):
        return frame.payload
    first, last = 0, len(frame.payload)
    if frame.flags & PADDED:
        first, last = 1, last - (frame.payload[0] if frame.payload else 1)
    if frame.type == HEADERS and frame.flags & PRIORITISED:
        first += _PRIORITY_BYTES
    if last < first:
        raise ProtocolError("a frame is all padding")
    return frame.payload[first:last]


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield (setting, value).

    Raises:
        ProtocolError: if the payload is cut short.
    """
    if len(payload) % _SETTING.size:
        raise ProtocolError("settings are cut short")
    yield from _SETTING.iter_unpack(payload)


def read_increment(frame: Frame) -> int:
    """Return a WINDOW_UPDATE's increment.

    Raises:
        ProtocolError: if it is cut short.
    """
    if len(frame.payload) != _UINT32.size:
        raise ProtocolError("a window update is cut short")
    (increment,) = _UINT32.unpack(frame.payload)
    return int(increment) & MAX_WINDOW_BYTES
