"""The HTTP server that Prometheus asks: `GET /metrics`, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from overspill.errors import ConfigError
from overspill.metrics.section import UNIX_PREFIX, split_address
from overspill.tls import TlsFiles, WatchedTls, https_context

_log = structlog.get_logger(__name__)

#: A request has this long from its first byte to the last of its answer.
_REQUEST_S = 10.0
_MAX_HEAD_BYTES = 16 * 1024
#: Any local user may connect to a loopback address; more connections at once are closed unanswered.
_MAX_CONNECTIONS = 16
#: Between attempts to get an address that is taken.
_RETRY_S = 30.0
_PLAIN_TEXT = "text/plain; charset=utf-8"


class MetricsServer:
    """Serves registries on one address for the life of the daemon."""

    def __init__(self, registries: Sequence[CollectorRegistry], listen: str, tls: TlsFiles | None) -> None:
        """Prepare only; `run` listens.

        Args:
            registries: what is served, one after the other; no metric may be in two.
            listen: a checked address, see `MetricsSection`.
            tls: our certificate, and the CA that clients' certificates must be of; None to serve in plain text.
        """
        self._registries = registries
        self._listen = listen
        self._tls = tls
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled.

        An address or a certificate that cannot be had is told once and tried again: jobs come before their figures.
        """
        is_told = False
        while True:
            try:
                await self._serve()
            except (OSError, ConfigError) as error:
                if not is_told:
                    reason = error.reason if isinstance(error, ConfigError) else error.strerror or str(error)
                    _log.error(
                        "metrics are not served", action="metrics_not_served", listen=self._listen, reason=reason
                    )
                is_told = True
            except Exception:  # noqa: BLE001 - the loop's edge; logged with its traceback
                _log.exception("metrics are not served", action="metrics_failed")
            await asyncio.sleep(_RETRY_S)

    async def _serve(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the address is taken.
            ConfigError: a PEM file is not usable.
        """
        context = https_context(WatchedTls(self._tls), asks_for_certificates=True) if self._tls else None
        server = await self._listening(context)
        _log.info("metrics are served", action="metrics_served", listen=self._listen)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            if self._connections:
                await asyncio.wait(self._connections, timeout=1)

    async def _listening(self, context: ssl.SSLContext | None) -> asyncio.Server:
        if self._listen.startswith(UNIX_PREFIX):
            path = Path(self._listen.removeprefix(UNIX_PREFIX))
            server = await asyncio.start_unix_server(self._accept, path, limit=_MAX_HEAD_BYTES, ssl=context)
            path.chmod(0o600)  # noqa: ASYNC240 - a socket file's mode, once
            return server
        host, port = split_address(self._listen)
        return await asyncio.start_server(self._accept, host, port, limit=_MAX_HEAD_BYTES, ssl=context)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._converse(reader, writer), name="metrics")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            async with asyncio.timeout(_REQUEST_S):
                writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            _log.debug("no metrics request", action="metrics_request_broken", reason=str(error))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in {"GET", "HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, _PLAIN_TEXT, b"GET /metrics\n")
        if path != "/metrics":
            return _response(HTTPStatus.NOT_FOUND, _PLAIN_TEXT, b"the metrics are at /metrics\n")
        try:
            body = b"".join(generate_latest(registry) for registry in self._registries)
        except Exception:  # noqa: BLE001 - the request's edge; logged with its traceback
            _log.exception("metrics failed", action="metrics_failed")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, _PLAIN_TEXT, b"a defect; the log says more\n")
        return _response(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, body, is_head=method == "HEAD")


def _response(status: HTTPStatus, content_type: str, body: bytes, *, is_head: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if is_head else body)
