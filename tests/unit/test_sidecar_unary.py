"""The server's end of an HTTP/2 connection, as bytes: whatever way they are cut, the same calls and answers."""

from __future__ import annotations

import grpc
import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.unary import frames
from overspill_sidecar.unary.connection import MAX_MESSAGE_BYTES, Call, Connection
from overspill_sidecar.unary.frames import ProtocolError

PATH = "/overspill.v1.Router/Decide"
HELLO = frames.PREFACE + frames.encode_settings(())


def headers(stream_id: int, encoder: hpack.Encoder | None = None, flags: int = frames.END_HEADERS) -> bytes:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", PATH), ("te", "trailers")]
    return frames.encode(frames.HEADERS, flags, stream_id, (encoder or hpack.Encoder()).encode(fields))


def message(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


def request(stream_id: int, content: bytes, encoder: hpack.Encoder | None = None) -> bytes:
    return headers(stream_id, encoder) + frames.encode(frames.DATA, frames.END_STREAM, stream_id, message(content))


def greeted() -> Connection:
    connection = Connection()
    connection.receive(HELLO)
    connection.take_output()
    return connection


def sent_by(connection: Connection) -> list[frames.Frame]:
    found, rest = frames.read_frames(connection.take_output())
    assert rest == b""
    return found


def status_of(connection: Connection) -> str:
    (end,) = [frame for frame in sent_by(connection) if frame.type == frames.HEADERS]
    assert end.flags & frames.END_STREAM
    return dict(hpack.Decoder().decode(end.payload, raw=True))[b"grpc-status"].decode()


@given(cuts=st.lists(st.integers(1, 400), max_size=30), contents=st.lists(st.binary(max_size=80), max_size=5))
def test_calls_are_the_same_however_the_bytes_are_cut(cuts: list[int], contents: list[bytes]) -> None:
    encoder = hpack.Encoder()  # one for all calls, as a client has it: later headers refer to earlier ones
    data = HELLO + b"".join(request(2 * n + 1, content, encoder) for n, content in enumerate(contents))
    connection, calls = Connection(), []
    for cut in [*cuts, len(data)]:
        calls += connection.receive(data[:cut])
        data = data[cut:]
    assert calls == [Call(2 * n + 1, PATH, content) for n, content in enumerate(contents)]


@given(answer=st.binary(max_size=200_000), window=st.integers(0, 70_000), increments=st.lists(st.integers(1, 50_000)))
def test_an_answer_never_exceeds_the_windows_and_arrives_whole(
    answer: bytes, window: int, increments: list[int]
) -> None:
    connection = Connection()
    connection.receive(frames.PREFACE + frames.encode_settings([(frames.INITIAL_WINDOW_SETTING, window)]))
    (call,) = connection.receive(request(1, b"q"))
    connection.take_output()
    connection.answer(call, answer)
    allowed, received, is_ended = min(window, frames.DEFAULT_WINDOW_BYTES), b"", False
    for increment in [*increments, 300_000]:
        for frame in sent_by(connection):
            received += frame.payload if frame.type == frames.DATA else b""
            is_ended = frame.type == frames.HEADERS and bool(frame.flags & frames.END_STREAM)
        assert len(received) <= allowed
        allowed += increment
        connection.receive(frames.encode_window_update(0, increment) + frames.encode_window_update(1, increment))
    for frame in sent_by(connection):
        received += frame.payload if frame.type == frames.DATA else b""
        is_ended = frame.type == frames.HEADERS and bool(frame.flags & frames.END_STREAM)
    assert received == message(answer)
    assert is_ended


@given(st.binary(max_size=300))
def test_bytes_that_are_no_http2_end_the_connection_or_mean_nothing(junk: bytes) -> None:
    for connection in (Connection(), greeted()):
        try:
            calls = connection.receive(junk)
        except ProtocolError:
            continue
        assert not calls


def test_padding_priority_and_continuation_are_understood() -> None:
    connection = greeted()
    block = hpack.Encoder().encode([(":path", PATH)])
    first = b"\x03" + b"\0" * 5 + block[:4] + b"\0" * 3
    flags = frames.PADDED | frames.PRIORITISED
    assert not connection.receive(frames.encode(frames.HEADERS, flags, 1, first))
    assert not connection.receive(frames.encode(frames.CONTINUATION, frames.END_HEADERS, 1, block[4:]))
    padded = b"\x02" + message(b"x") + b"\0\0"
    data = frames.encode(frames.DATA, frames.PADDED | frames.END_STREAM, 1, padded)
    assert connection.receive(data) == [Call(1, PATH, b"x")]


def test_settings_and_pings_are_acknowledged() -> None:
    connection = Connection()
    connection.receive(HELLO + frames.encode(frames.PING, 0, 0, b"12345678"))
    acknowledged = [frame for frame in sent_by(connection) if frame.flags & frames.ACK]
    assert [frame.type for frame in acknowledged] == [frames.SETTINGS, frames.PING]
    assert acknowledged[1].payload == b"12345678"


def test_a_call_that_is_withdrawn_is_not_answered() -> None:
    connection = greeted()
    reset = frames.encode(frames.RST_STREAM, 0, 1, b"\0\0\0\x08")
    assert not connection.receive(request(1, b"q") + reset)
    (call,) = connection.receive(request(3, b"q"))
    connection.receive(frames.encode(frames.RST_STREAM, 0, 3, b"\0\0\0\x08"))
    connection.answer(call, b"a")
    assert not sent_by(connection)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", grpc.StatusCode.INTERNAL),
        (b"\0\0\0\0\x09short", grpc.StatusCode.INTERNAL),
        (b"\x01\0\0\0\x01x", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_a_body_that_is_not_one_plain_message_is_refused(body: bytes, code: grpc.StatusCode) -> None:
    connection = greeted()
    data = headers(1) + frames.encode(frames.DATA, frames.END_STREAM, 1, body)
    assert not connection.receive(data)
    assert status_of(connection) == str(code.value[0])


def test_a_message_beyond_the_limit_is_refused_and_the_next_one_taken() -> None:
    connection = greeted()
    chunk = frames.encode(frames.DATA, 0, 1, b"\0" * frames.MAX_FRAME_BYTES)
    connection.receive(headers(1))
    for _ in range(MAX_MESSAGE_BYTES // frames.MAX_FRAME_BYTES + 1):
        assert not connection.receive(chunk)
    assert status_of(connection) == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    assert connection.receive(request(3, b"x")) == [Call(3, PATH, b"x")]


def test_streams_beyond_the_announced_number_are_refused_for_now() -> None:
    connection = greeted()
    for number in range(128):
        connection.receive(headers(2 * number + 1))
    connection.receive(headers(257))
    (reset,) = sent_by(connection)
    assert (reset.type, reset.stream_id) == (frames.RST_STREAM, 257)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HELLO + headers(2),
        HELLO + headers(3) + headers(1),
        HELLO + frames.encode(frames.CONTINUATION, 0, 1, b""),
        HELLO + headers(1, flags=0) + frames.encode(frames.PING, 0, 0, b"12345678"),
        HELLO + frames.encode(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff"),
        HELLO + frames.encode(frames.PUSH_PROMISE, 0, 1, b""),
        HELLO + frames.encode(frames.SETTINGS, 0, 0, b"\0"),
        HELLO + frames.encode(frames.WINDOW_UPDATE, 0, 0, b"\0"),
        HELLO + headers(1) + frames.encode(frames.DATA, frames.PADDED, 1, b"\x09x"),
        HELLO + b"\xff\xff\xff" + b"\0" * 6,
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_apart(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Connection().receive(data)
