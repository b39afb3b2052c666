"""What `overspill check` says of the metrics: whether they are served where they are to be."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

from overspill.cli.finding import Finding, ok, warning
from overspill.metrics.section import UNIX_PREFIX, split_address

_TIMEOUT_S = 5.0
_OURS = b"overspill_build_info"
_REMEDY = "its daemon's log says why (action metrics_not_served), or restart it; no job is affected"


def check_metrics(listen: str | None, *, has_tls: bool) -> Iterator[Finding]:
    """Ask for the metrics; over TLS, which would want a certificate of us, only see whether somebody is there."""
    if listen is None:
        return
    try:
        with _connected(listen) as connection:
            is_ours = has_tls or _OURS in _ask(connection)
    except OSError as failure:
        yield warning("metrics", f"nobody answers on {listen}: {failure.strerror or failure}", _REMEDY)
        return
    if is_ours:
        yield ok("metrics", f"they are served on {listen}")
    else:
        yield warning("metrics", f"another program answers on {listen}", f"choose another port; {_REMEDY}")


def _connected(listen: str) -> socket.socket:
    if not listen.startswith(UNIX_PREFIX):
        return socket.create_connection(split_address(listen), timeout=_TIMEOUT_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_TIMEOUT_S)
    try:
        connection.connect(listen.removeprefix(UNIX_PREFIX))
    except OSError:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket) -> bytes:
    """Return what is answered, nothing if it is no HTTP."""
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        return answer.read()
    except http.client.HTTPException:
        return b""
    finally:
        answer.close()
