"""What a stranger may keep at the runner channel before anybody has asked who it is."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from overspill_agent.service.limited_http import HEAD_TIMEOUT_S
from tests.integration.agent_site import Site

_PIECE = b"a" * 65536
_REQUEST = b"GET /runner/v1/none/1/spec HTTP/1.1\r\nHost: localhost\r\n"
_POST = b"POST /runner/v1/none/1/upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def connection_to(site: Site) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context(cafile=str(site.root / "ca.crt"))
    with (
        socket.create_connection(("localhost", site.runner_port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def wait_for_close(connection: ssl.SSLSocket) -> None:
    """Read until the peer has closed; an answer may come before. The socket's time limit fails the test."""
    with suppress(ConnectionError, ssl.SSLError):
        while connection.recv(65536):
            continue


def read_refusal(connection: ssl.SSLSocket) -> None:
    answer = b""
    while not answer.endswith(b"no such run"):
        answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 404")


def sent_until_closed(connection: ssl.SSLSocket, piece: bytes, most: int) -> int:
    """Send `piece` again and again; return how much the peer let come before it broke off."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    except (ConnectionError, ssl.SSLError):
        return sent
    return sent


def peak_memory_kib(site: Site) -> int:
    assert site.process is not None
    status = Path(f"/proc/{site.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /", _PIECE),
        (_REQUEST + b"X: ", _PIECE),
        (_REQUEST, b"X: y\r\n" * 10000),
        (_POST + b"1\r\nx\r\n0\r\nX: ", _PIECE),
        (_POST + b"1;", _PIECE),
    ],
    ids=["path", "one header", "many headers", "trailer", "chunk extension"],
)
def test_a_head_without_end_is_broken_off_before_it_takes_memory(site: Site, begin: bytes, piece: bytes) -> None:
    before = peak_memory_kib(site)
    with connection_to(site) as connection:
        connection.sendall(begin)
        assert sent_until_closed(connection, piece, 50_000_000) < 20_000_000
    assert peak_memory_kib(site) - before < 10_000


def test_connections_without_a_whole_request_head_are_closed_in_time(site: Site) -> None:
    begun = time.monotonic()
    with connection_to(site) as silent, connection_to(site) as slow, connection_to(site) as again:
        slow.sendall(_REQUEST)
        again.sendall(_REQUEST + b"\r\n")
        read_refusal(again)
        again.sendall(b"GET")
        wait_for_close(silent)
        assert time.monotonic() - begun > HEAD_TIMEOUT_S - 1
        wait_for_close(slow)
        wait_for_close(again)
    assert time.monotonic() - begun < HEAD_TIMEOUT_S + 5


def test_a_stranger_who_begins_no_handshake_at_the_relays_port_is_closed_in_time(site: Site) -> None:
    begun = time.monotonic()
    with socket.create_connection(("localhost", site.grpc_port), timeout=30) as silent:
        with suppress(ConnectionError):
            assert silent.recv(1) == b""
        assert 8 < time.monotonic() - begun < 20


def test_a_connection_serves_one_request_after_the_other(site: Site) -> None:
    with connection_to(site) as connection:
        for _ in range(80):
            connection.sendall(_REQUEST + b"X: " + b"y" * 1000 + b"\r\n\r\n")
            read_refusal(connection)
