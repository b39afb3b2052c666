"""One connection to the relay. Nothing here blocks."""

from __future__ import annotations

import _socket as socket  # the C half: the Python half costs 9 ms at the start of every job
import os
from collections import deque

from overspill.proxy_framing import HEADER, OUTPUT, FrameType, FramingError, decode_header

_RECEIVE_BYTES = 256 * 1024
#: OUTPUT is passed on piece by piece; no other frame of the relay is long.
_LONGEST_WHOLE_FRAME = 1024 * 1024


class Frame:
    """A frame of the relay, or a piece of an OUTPUT frame with its own stream and offset."""

    __slots__ = ("data", "offset", "stream", "type")

    def __init__(self, frame_type: FrameType, data: bytes, stream: int = 0, offset: int = 0) -> None:
        self.type = frame_type
        self.data = data
        self.stream = stream
        self.offset = offset


class FrameReader:
    """Cuts the relay's byte stream into frames, never holding much more than what was put in last."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stream = 0
        self._offset = 0
        self._output_left = 0

    def put(self, data: bytes) -> None:
        """Add received bytes. Call `next` until it returns None before more are put in."""
        self._buffer += data

    def next(self) -> Frame | None:
        """Return the next frame or piece of output, None where bytes are missing.

        Raises:
            FramingError: if the peer sends no frames.
        """
        if self._output_left:
            return self._next_piece()
        if len(self._buffer) < HEADER.size:
            return None
        frame_type, length = decode_header(bytes(self._buffer[: HEADER.size]))
        if frame_type is FrameType.OUTPUT:
            return self._begin_output(length)
        if length > _LONGEST_WHOLE_FRAME:
            raise FramingError(f"{frame_type.name} of {length} bytes")
        if len(self._buffer) < HEADER.size + length:
            return None
        data = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        return Frame(frame_type, data)

    def _begin_output(self, length: int) -> Frame | None:
        if length < OUTPUT.size:
            raise FramingError(f"OUTPUT of {length} bytes")
        begin = HEADER.size + OUTPUT.size
        if len(self._buffer) < begin:
            return None
        self._stream, self._offset = OUTPUT.unpack_from(self._buffer, HEADER.size)
        self._output_left = length - OUTPUT.size
        del self._buffer[:begin]
        return self.next()

    def _next_piece(self) -> Frame | None:
        data = bytes(memoryview(self._buffer)[: self._output_left])
        if not data:
            return None
        del self._buffer[: len(data)]
        piece = Frame(FrameType.OUTPUT, data, self._stream, self._offset)
        self._offset += len(data)
        self._output_left -= len(data)
        return piece


class Connection:
    """A connected socket, what is still to be sent over it, and the frames that came."""

    def __init__(self, path: str, opening: bytes) -> None:
        """Connect and begin to send.

        Raises:
            OSError: if nobody listens there now.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.connect(os.fsencode(path))
        except OSError:
            self._socket.close()
            raise
        self._unsent: deque[memoryview] = deque([memoryview(opening)])
        self._opening_left = len(opening)
        self.frames = FrameReader()
        self.has_spoken = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_opened(self) -> bool:
        """Whether the relay can know of the job: the whole opening has been handed to the kernel."""
        return not self._opening_left

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        """Queue bytes and send what goes."""
        if data:
            self._unsent.append(memoryview(data))
        self.flush()

    def flush(self) -> None:
        """Send what goes.

        A relay that has closed takes no more, but what it said before may lie unread here, END among it: only
        `receive` finds out that a connection is over.
        """
        try:
            while self._unsent:
                self._send_once()
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def _send_once(self) -> None:
        # Without NOSIGNAL the proxy's own SIGPIPE would be sent on to the script.
        sent = self._socket.send(self._unsent[0], socket.MSG_NOSIGNAL)
        self._opening_left = max(0, self._opening_left - sent)
        if sent == len(self._unsent[0]):
            self._unsent.popleft()
        else:
            self._unsent[0] = self._unsent[0][sent:]

    def receive(self) -> bool:
        """Read once; return False at the end of the stream.

        Raises:
            OSError: if the connection is broken.
        """
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return True
        self.frames.put(data)
        self.has_spoken = self.has_spoken or bool(data)
        return bool(data)

    def close(self) -> None:
        self._socket.close()
