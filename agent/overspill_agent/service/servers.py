"""The two listening servers, started and stopped by hand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import grpc.aio
import uvicorn
from starlette.types import ASGIApp

from overspill.errors import AdminError
from overspill.tls import WatchedTls, https_context, server_credentials, server_options
from overspill.v1 import agent_pb2_grpc
from overspill_agent.service.agent_service import AgentService
from overspill_agent.service.health import Health
from overspill_agent.service.interceptor import StatusInterceptor
from overspill_agent.service.limited_http import LimitedHttpProtocol

#: For RPCs and requests that are under way when the agent goes down; streams have ended by then.
DRAIN_S = 2
#: A runner whose host does not acknowledge is gone after 9 s, as the agent is for the runner. Connections inherit it.
_TCP_OPTIONS = (
    (socket.TCP_KEEPIDLE, 3),
    (socket.TCP_KEEPINTVL, 2),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 9000),
)


class GrpcServer:
    """`AgentService` and its health behind mutual TLS."""

    def __init__(self, service: AgentService, health: Health, listen: str, tls: WatchedTls) -> None:
        """Bind.

        Raises:
            AdminError: the address is taken or a PEM file is not usable.
        """
        self._server = grpc.aio.server(interceptors=[StatusInterceptor()], options=server_options())
        agent_pb2_grpc.add_AgentServicer_to_server(service, self._server)
        health.add_to(self._server)
        try:
            self._server.add_secure_port(listen, server_credentials(tls))
        except RuntimeError as error:
            raise AdminError(f"cannot listen on {listen} ([server]): {error}") from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        """Take no more; give what is under way `DRAIN_S` seconds."""
        await self._server.stop(grace=DRAIN_S)


class HttpsServer:
    """An ASGI application behind TLS 1.3. Runners have no certificates; their tokens tell who they are."""

    def __init__(self, app: ASGIApp, listen: str, tls: WatchedTls, drain_s: int = DRAIN_S) -> None:
        """Bind; `stop` gives what is under way `drain_s` seconds.

        Raises:
            AdminError: the address is taken.
            ConfigError: a PEM file is not usable.
        """
        context = https_context(tls)
        self._socket = _bind(listen)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=LimitedHttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                ssl_context_factory=lambda _config, _default: context,
                timeout_graceful_shutdown=drain_s,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve; return when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="runner channel")
        ready = asyncio.create_task(self._server.ready.wait(), name="runner channel ready")
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Take no more; let what is under way end. One that was never started is closed, too."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to the agent and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, int(port)), family=family, backlog=socket.SOMAXCONN)
    except OSError as error:
        raise AdminError(f"cannot listen on {listen} ([runner_channel]): {error.strerror}") from error
    server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _TCP_OPTIONS:
        server.setsockopt(socket.IPPROTO_TCP, option, value)
    return server
