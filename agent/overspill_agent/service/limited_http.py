"""HTTP/1.1 for peers that nobody knows yet: what one of them may keep, in bytes and in time, is bounded.

uvicorn's own protocol keeps request heads of any length and waits for them forever; authorisation comes after them.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Bytes without a finished request head or bytes of a body among them: a head, trailers, or padding between chunks. One
#: read of the transport (256 KiB) may come on top.
MAX_HEAD_BYTES = 64 * 1024
#: From the connection, or from the last response, to the end of a request's head.
HEAD_TIMEOUT_S = 10.0


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools; ends connections that send too long a head, or none in time."""

    _idle_bytes = 0
    _head_timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timeout()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._idle_bytes += len(data)
        super().data_received(data)
        if self._idle_bytes > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._idle_bytes = 0
        self._end_head_timeout()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A request that was sent before its turn is being served already.
        if self.cycle.response_complete and not self.transport.is_closing():
            self._await_head()

    def _await_head(self) -> None:
        self._end_head_timeout()
        self._head_timeout = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _end_head_timeout(self) -> None:
        if self._head_timeout is not None:
            self._head_timeout.cancel()
            self._head_timeout = None
