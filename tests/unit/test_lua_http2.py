"""The shim's HTTP/2 client against a scripted peer, in every version of Lua."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lua_runtime import VERSIONS, module, new_runtime

RUNTIMES = {version: new_runtime(version) for version in VERSIONS}
versions = st.sampled_from(VERSIONS)

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
STATUS_200 = b"\x88"

# A socket whose peer says `chunks` one by one, whatever it hears, and then closes or hangs.
SCRIPTED_SOCKET = """
function(chunks, ending)
  local socket = { sent = {} }
  local arrived, index = "", 0
  function socket:settimeout(timeout) self.timeout = timeout end
  function socket:connect() return 1 end
  function socket:close() self.is_closed = true end
  function socket:send(bytes, first, last)
    assert(self.timeout > 0)
    self.sent[#self.sent + 1] = bytes:sub(first, last)
    return last
  end
  function socket:receive(length)
    if arrived == "" and self.timeout > 0 then
      index = index + 1
      arrived = chunks[index] or ""
      if arrived == "" then return nil, ending, "" end
    end
    local bytes = arrived:sub(1, length)
    arrived = arrived:sub(length + 1)
    if #bytes == length then return bytes end
    return nil, "timeout", bytes
  end
  return socket
end
"""

CALL = """
function(new_socket, message)
  local deadline = require("overspill.deadline").start(1, function() return 0 end)
  local client = require("overspill.grpc").new(new_socket, "/x")
  local reply, problem = client:call("/a/B", message, deadline)
  return reply or false, problem and problem.kind, problem and problem.detail
end
"""


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def _field(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _message(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def _answer(payload: bytes = b"reply", status: bytes = b"0") -> list[bytes]:
    """Return the frames of a whole answer to the first call."""
    return [
        _frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64"),
        _frame(SETTINGS, ACK, 0, b""),
        _frame(HEADERS, END_HEADERS, 1, STATUS_200 + _field(b"content-type", b"application/grpc")),
        _frame(DATA, 0, 1, _message(payload)),
        _frame(HEADERS, END_HEADERS | END_STREAM, 1, _field(b"grpc-status", status)),
    ]


def _call(version: str, chunks: list[bytes], message: bytes = b"request", ending: str = "timeout") -> tuple[Any, ...]:
    """Return (reply or False, kind of failure, its detail, what the client sent)."""
    runtime = RUNTIMES[version]
    texts = runtime.table_from([chunk.decode("latin-1") for chunk in chunks])
    socket = runtime.eval(SCRIPTED_SOCKET)(texts, ending)
    reply, kind, detail = runtime.eval(CALL)(lambda: socket, message.decode("latin-1"))
    sent = "".join(socket.sent.values()).encode("latin-1")
    return reply, kind, detail, sent


def _frames_sent(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    position = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert sent.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    frames = []
    while position < len(sent):
        length = int.from_bytes(sent[position : position + 3], "big")
        kind, flags = sent[position + 3], sent[position + 4]
        stream_id = int.from_bytes(sent[position + 5 : position + 9], "big")
        frames.append((kind, flags, stream_id, sent[position + 9 : position + 9 + length]))
        position += 9 + length
    return frames


@given(versions, st.binary(max_size=300), st.lists(st.integers(0, 500), max_size=10))
def test_an_answer_is_understood_however_it_is_cut(version: str, payload: bytes, cuts: list[int]) -> None:
    stream = b"".join(_answer(payload))
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges)]
    assert _call(version, chunks)[0] == payload.decode("latin-1")


@given(versions, st.lists(st.binary(min_size=1, max_size=80), max_size=4), st.sampled_from(["timeout", "closed"]))
def test_garbage_fails_as_what_it_is_and_never_as_a_defect(version: str, chunks: list[bytes], ending: str) -> None:
    reply, kind, _, _ = _call(version, chunks, ending=ending)
    assert reply is False
    assert kind in {"deadline", "unavailable", "protocol"}


@given(versions, st.integers(0, 10_000), st.integers(0, 255))
def test_an_answer_with_one_wrong_byte_never_fails_as_a_defect(version: str, position: int, byte: int) -> None:
    stream = bytearray(b"".join(_answer()))
    stream[position % len(stream)] = byte
    _, kind, _, _ = _call(version, [bytes(stream)])
    assert kind in {None, "deadline", "unavailable", "protocol", "status"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("frames", "reply", "kind"),
    [
        ([_frame(GOAWAY, 0, 0, bytes(8)), *_answer()], False, "unavailable"),
        ([_frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0"), *_answer()], "reply", None),
        ([_frame(RST_STREAM, 0, 1, b"\0\0\0\x08")], False, "unavailable"),
        ([_frame(RST_STREAM, 0, 3, b"\0\0\0\x08"), *_answer()], "reply", None),
        ([_frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02")], False, "protocol"),
        ([_frame(0x42, 0, 0, b"of a later RFC"), *_answer()], "reply", None),
        ([_frame(HEADERS, END_HEADERS | END_STREAM, 1, STATUS_200)], False, "protocol"),
        ([_frame(HEADERS, END_HEADERS | END_STREAM, 1, _field(b"grpc-status", b"12"))], False, "status"),
        ([_frame(HEADERS, END_HEADERS | END_STREAM, 1, _field(b"grpc-status", b"4"))], False, "deadline"),
        ([b"\x00\x40\x01" + bytes(6)], False, "protocol"),  # a frame of 16,385 bytes
        ([_frame(DATA, PADDED, 1, b"\x09x")], False, "protocol"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], False, "protocol"),
    ],
    ids=[
        "goaway that excludes the call", "goaway that includes it", "reset", "reset of another stream", "push",
        "unknown frame", "no grpc-status", "status", "the server's deadline", "oversize frame", "all padding", "http/1",
    ],
)  # fmt: skip
def test_each_kind_of_frame_does_what_http2_says(
    version: str, frames: list[bytes], reply: Any, kind: str | None
) -> None:
    assert _call(version, [b"".join(frames)])[:2] == (reply, kind)


@pytest.mark.parametrize("version", VERSIONS)
def test_padding_priority_and_continuation_are_taken_off(version: str) -> None:
    trailers = _field(b"grpc-status", b"0")
    frames = [
        _frame(HEADERS, PADDED | PRIORITY, 1, b"\x02" + bytes(5) + STATUS_200 + bytes(2)),
        _frame(CONTINUATION, END_HEADERS, 1, _field(b"content-type", b"application/grpc")),
        _frame(DATA, PADDED, 1, b"\x03" + _message(b"reply") + bytes(3)),
        _frame(HEADERS, END_STREAM, 1, trailers[:5]),
        _frame(CONTINUATION, END_HEADERS, 1, trailers[5:]),
    ]
    assert _call(version, frames)[0] == "reply"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ping_and_settings_are_acknowledged(version: str) -> None:
    frames = _frames_sent(_call(version, [_frame(PING, 0, 0, b"12345678"), *_answer()])[3])
    assert (PING, ACK, 0, b"12345678") in frames
    assert (SETTINGS, ACK, 0, b"") in frames


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_above_the_limit_is_refused_before_it_is_whole(version: str) -> None:
    flood = [_frame(DATA, 0, 1, bytes(16384))] * 5
    assert _call(version, flood)[:2] == (False, "protocol")


@pytest.mark.parametrize("version", VERSIONS)
def test_endless_headers_are_refused(version: str) -> None:
    flood = [_frame(HEADERS, 0, 1, b""), *[_frame(CONTINUATION, 0, 1, bytes(16384))] * 5]
    assert _call(version, flood)[:2] == (False, "protocol")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_request_waits_for_the_windows_and_arrives_whole(version: str) -> None:
    request = bytes(range(256)) * 400
    grants = [_frame(WINDOW_UPDATE, 0, 0, (40_000).to_bytes(4, "big")), _frame(WINDOW_UPDATE, 0, 1, b"\0\0\xc3\x50")]
    sent = _call(version, [*grants, *_answer()], message=request)[3]
    data = [frame for frame in _frames_sent(sent) if frame[0] == DATA]
    assert b"".join(frame[3] for frame in data) == _message(request)
    assert all(len(frame[3]) <= 16384 for frame in data)
    assert [frame[1] for frame in data] == [0] * (len(data) - 1) + [END_STREAM]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_peer_that_grants_no_window_gets_no_more_than_it_allowed(version: str) -> None:
    _, kind, _, sent = _call(version, [], message=bytes(100_000))
    assert kind == "deadline"
    assert sum(len(frame[3]) for frame in _frames_sent(sent) if frame[0] == DATA) == 65535


@given(versions, st.dictionaries(st.text("abc-", min_size=1, max_size=200), st.text("xyz", max_size=300), max_size=4))
def test_header_fields_survive_the_way_there_and_back(version: str, fields: dict[str, str]) -> None:
    hpack = module(RUNTIMES[version], "hpack")
    block = "".join(hpack.literal(name, value) for name, value in fields.items())
    assert dict(hpack.decode(block)) == fields


@pytest.mark.parametrize("version", VERSIONS)
def test_fields_that_are_not_spelled_out_are_skipped(version: str) -> None:
    huffman = b"\0\x82\xff\xff\x82\xff\xff"
    indexed, resize, incremental = b"\x88", b"\x20", b"\x40\x01a\x01b"
    decode = module(RUNTIMES[version], "hpack").decode
    assert dict(decode((resize + indexed + huffman + incremental).decode("latin-1"))) == {"a": "b"}
