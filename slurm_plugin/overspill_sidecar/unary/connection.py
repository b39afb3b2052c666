"""The server's end of one HTTP/2 connection without its socket: bytes in, calls out; answers in, bytes out. Pure.

Source: RFC 9113, and https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import grpc
import hpack

from overspill_sidecar.unary import frames
from overspill_sidecar.unary.frames import Frame, ProtocolError

#: gRPC's default is 4 MiB; a DecideRequest holds no script, but lists of nodes and tasks have no limit of their own.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_MAX_BLOCK_BYTES = 64 * 1024
_MAX_STREAMS = 128
#: "Is compressed" and length, before each message.
_PREFIX_BYTES = 5
#: No request that is accepted needs an update of its stream's window.
_STREAM_WINDOW_BYTES = MAX_MESSAGE_BYTES + frames.MAX_FRAME_BYTES
#: The connection's window is topped up when so much of it is used.
_TOP_UP_BYTES = 2**29
_CACHED_BLOCKS = 64
#: Characters of what is said about a failed call.
_MAX_DETAILS = 1000
_REFUSED_STREAM = (7).to_bytes(4, "big")

_GREETING = frames.encode_settings(
    (
        (frames.MAX_CONCURRENT_STREAMS_SETTING, _MAX_STREAMS),
        (frames.INITIAL_WINDOW_SETTING, _STREAM_WINDOW_BYTES),
    )
) + frames.encode_window_update(0, 2**30 - frames.DEFAULT_WINDOW_BYTES)


def _text(text: bytes) -> bytes:
    """Return an HPACK string without Huffman codes: its length, seven bits of it in the first byte, and itself."""
    rest = len(text) - 127
    if rest < 0:
        return bytes((len(text),)) + text
    length = bytearray((127,))
    while rest >= 128:  # noqa: PLR2004 - seven bits a byte
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes((*length, rest)) + text


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a header field that the peer does not index."""
    return b"\0" + _text(name) + _text(value)


#: `:status: 200` is entry 8 of HPACK's static table.
_RESPONSE_HEADERS = b"\x88" + _literal(b"content-type", b"application/grpc")
_OK = _literal(b"grpc-status", b"0")


@dataclass(frozen=True, slots=True)
class Call:
    """One request that has arrived in full."""

    stream_id: int
    #: "/package.Service/Method".
    path: str
    message: bytes


@dataclass(slots=True)
class _Stream:
    path: str
    send_window: int
    body: bytearray = field(default_factory=bytearray)
    #: Of the answer: what the peer's windows hold back, and the frame that follows it.
    unsent: bytes = b""
    trailers: bytes = b""


class Connection:
    """One client. After a ProtocolError it is of no use any more."""

    def __init__(self) -> None:
        self._input = b""
        self._is_greeted = False
        self._output = [_GREETING]
        self._streams: dict[int, _Stream] = {}
        self._last_stream_id = 0
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_BLOCK_BYTES)
        #: Header blocks that stand for themselves, and the path in each: a client's calls all begin alike.
        self._paths: dict[bytes, str] = {}
        #: HEADERS whose block goes on in CONTINUATION frames.
        self._open_headers: Frame | None = None
        self._send_window = frames.DEFAULT_WINDOW_BYTES
        self._peers_initial_window = frames.DEFAULT_WINDOW_BYTES
        self._peers_max_frame = frames.MAX_FRAME_BYTES
        self._unreturned_bytes = 0
        self._calls: list[Call] = []
        self._handlers: dict[int, Callable[[Frame], None]] = {
            frames.DATA: self._take_data,
            frames.HEADERS: self._take_headers,
            frames.CONTINUATION: self._take_continuation,
            frames.RST_STREAM: self._take_reset,
            frames.SETTINGS: self._take_settings,
            frames.PUSH_PROMISE: self._refuse_push,
            frames.PING: self._take_ping,
            frames.WINDOW_UPDATE: self._take_window_update,
        }

    def receive(self, data: bytes) -> list[Call]:
        """Take what the peer sent and return the calls that it completes.

        Raises:
            ProtocolError: if it is no HTTP/2, or no gRPC.
        """
        self._input += data
        if not self._is_greeted and not self._take_preface():
            return []
        received, self._input = frames.read_frames(self._input)
        for frame in received:
            if self._open_headers is not None and frame.type != frames.CONTINUATION:
                raise ProtocolError("a header block is interrupted")
            if (handle := self._handlers.get(frame.type)) is not None:
                handle(frame)
        calls, self._calls = self._calls, []
        return calls

    def answer(self, call: Call, message: bytes) -> None:
        """Answer with OK and a message."""
        stream = self._streams.get(call.stream_id)
        if stream is None:
            return
        self._output.append(frames.encode(frames.HEADERS, frames.END_HEADERS, call.stream_id, _RESPONSE_HEADERS))
        stream.unsent = b"\0" + len(message).to_bytes(4, "big") + message
        stream.trailers = frames.encode(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, call.stream_id, _OK)
        self._send(call.stream_id, stream)

    def fail(self, call: Call, code: grpc.StatusCode, details: str) -> None:
        """Answer with a status that is not OK."""
        if self._streams.pop(call.stream_id, None) is not None:
            self._end(call.stream_id, code, details)

    def take_output(self) -> bytes:
        """Return what is to be sent now."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    # What the peer sends

    def _take_preface(self) -> bool:
        if not self._input.startswith(frames.PREFACE[: len(self._input)]):
            raise ProtocolError("the peer does not speak HTTP/2")
        if len(self._input) < len(frames.PREFACE):
            return False
        self._input = self._input[len(frames.PREFACE) :]
        self._is_greeted = True
        return True

    def _take_headers(self, frame: Frame) -> None:
        if frame.flags & frames.END_HEADERS:
            self._begin(frame.stream_id, frames.content(frame), is_ended=bool(frame.flags & frames.END_STREAM))
        else:
            self._open_headers = Frame(
                frame.type, frame.flags & frames.END_STREAM, frame.stream_id, frames.content(frame)
            )

    def _take_continuation(self, frame: Frame) -> None:
        begun = self._open_headers
        if begun is None or begun.stream_id != frame.stream_id:
            raise ProtocolError("a header block goes on that was not begun")
        block = begun.payload + frame.payload
        if len(block) > _MAX_BLOCK_BYTES:
            raise ProtocolError("a header block is too long")
        self._open_headers = Frame(begun.type, begun.flags, begun.stream_id, block)
        if frame.flags & frames.END_HEADERS:
            self._open_headers = None
            self._begin(frame.stream_id, block, is_ended=bool(begun.flags & frames.END_STREAM))

    def _begin(self, stream_id: int, block: bytes, *, is_ended: bool) -> None:
        path = self._path_in(block)
        if stream_id % 2 == 0 or stream_id <= self._last_stream_id:
            raise ProtocolError(f"stream {stream_id} cannot be begun")
        self._last_stream_id = stream_id
        if len(self._streams) >= _MAX_STREAMS:
            self._output.append(frames.encode(frames.RST_STREAM, 0, stream_id, _REFUSED_STREAM))
            return
        self._streams[stream_id] = _Stream(path, self._peers_initial_window)
        if is_ended:
            self._refuse(stream_id, grpc.StatusCode.INTERNAL, "a call without a message")

    def _path_in(self, block: bytes) -> str:
        path = self._paths.get(block)
        if path is not None:
            return path
        try:
            fields = self._decoder.decode(block, raw=True)
        except hpack.HPACKError as error:
            raise ProtocolError(f"headers: {error}") from error
        path = next((bytes(value).decode("latin-1") for name, value in fields if name == b":path"), "")
        # Where nothing was ever indexed, a block means the same each time.
        if not self._decoder.header_table.dynamic_entries and len(self._paths) < _CACHED_BLOCKS:
            self._paths[block] = path
        return path

    def _take_data(self, frame: Frame) -> None:
        self._unreturned_bytes += len(frame.payload)
        if self._unreturned_bytes >= _TOP_UP_BYTES:
            self._output.append(frames.encode_window_update(0, self._unreturned_bytes))
            self._unreturned_bytes = 0
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            return  # refused already, or withdrawn
        stream.body += frames.content(frame)
        if len(stream.body) > MAX_MESSAGE_BYTES:
            self._refuse(frame.stream_id, grpc.StatusCode.RESOURCE_EXHAUSTED, f"at most {MAX_MESSAGE_BYTES} bytes")
        elif frame.flags & frames.END_STREAM:
            self._complete(frame.stream_id, stream)

    def _complete(self, stream_id: int, stream: _Stream) -> None:
        prefix, message = stream.body[:_PREFIX_BYTES], bytes(stream.body[_PREFIX_BYTES:])
        stream.body = bytearray()
        if len(prefix) < _PREFIX_BYTES or int.from_bytes(prefix[1:], "big") != len(message):
            self._refuse(stream_id, grpc.StatusCode.INTERNAL, "not one message")
        elif prefix[0]:
            self._refuse(stream_id, grpc.StatusCode.UNIMPLEMENTED, "compressed messages are not understood")
        else:
            self._calls.append(Call(stream_id, stream.path, message))

    def _take_reset(self, frame: Frame) -> None:
        self._streams.pop(frame.stream_id, None)
        self._calls = [call for call in self._calls if call.stream_id != frame.stream_id]

    def _take_settings(self, frame: Frame) -> None:
        if frame.flags & frames.ACK:
            return
        for setting, value in frames.read_settings(frame.payload):
            if setting == frames.INITIAL_WINDOW_SETTING:
                for stream in self._streams.values():
                    stream.send_window += value - self._peers_initial_window
                self._peers_initial_window = value
            elif setting == frames.MAX_FRAME_SETTING:
                self._peers_max_frame = value
        self._output.append(frames.encode(frames.SETTINGS, frames.ACK, 0))
        self._send_what_waits()

    def _refuse_push(self, _: Frame) -> None:
        raise ProtocolError("a client pushes")

    def _take_ping(self, frame: Frame) -> None:
        if not frame.flags & frames.ACK:
            self._output.append(frames.encode(frames.PING, frames.ACK, 0, frame.payload))

    def _take_window_update(self, frame: Frame) -> None:
        increment = frames.read_increment(frame)
        if frame.stream_id == 0:
            self._send_window += increment
        elif (stream := self._streams.get(frame.stream_id)) is not None:
            stream.send_window += increment
        self._send_what_waits()

    # What we send

    def _send_what_waits(self) -> None:
        for stream_id, stream in list(self._streams.items()):
            if stream.trailers:
                self._send(stream_id, stream)

    def _send(self, stream_id: int, stream: _Stream) -> None:
        """Send as much of the answer as the windows allow; with its last byte, the trailers, and forget the stream."""
        while stream.unsent:
            room = min(self._send_window, stream.send_window, self._peers_max_frame)
            if room <= 0:
                return
            chunk, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            self._send_window -= len(chunk)
            stream.send_window -= len(chunk)
            self._output.append(frames.encode(frames.DATA, 0, stream_id, chunk))
        self._output.append(stream.trailers)
        del self._streams[stream_id]

    def _refuse(self, stream_id: int, code: grpc.StatusCode, details: str) -> None:
        del self._streams[stream_id]
        self._end(stream_id, code, details)

    def _end(self, stream_id: int, code: grpc.StatusCode, details: str) -> None:
        number: int = code.value[0]
        message = quote(details[:_MAX_DETAILS], safe=" !#$&'()*+,/:;<=>?@[]^`{|}\"\\").encode()
        block = _RESPONSE_HEADERS + _literal(b"grpc-status", b"%d" % number) + _literal(b"grpc-message", message)
        self._output.append(frames.encode(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id, block))
