"""The connection to one agent: a channel that is opened anew when its certificate has been replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from overspill import claims
from overspill.certificates import utc_now
from overspill.errors import from_rpc_error
from overspill.tls import TlsFiles, TlsMaterial, WatchedTls, open_channel
from overspill.v1 import agent_pb2
from overspill.v1.agent_pb2_grpc import AgentStub

if TYPE_CHECKING:
    from overspill.v1.agent_pb2_grpc import AgentAsyncStub

_Response = TypeVar("_Response")
AttachCall = grpc.aio.StreamStreamCall[agent_pb2.AttachRequest, agent_pb2.AttachResponse]


class AgentLink:
    """RPCs to one agent, each on a channel with the certificate that is in the files now.

    What is under way on an older channel ends there, be it in days.
    """

    def __init__(self, target: str, files: TlsFiles) -> None:
        """Open the channel, which connects by itself; needs a running event loop.

        Args:
            target: host:port.
            files: what to show and to trust; looked at with each RPC.

        Raises:
            ConfigError: if a PEM file cannot be used.
        """
        self._target = target
        self._tls = WatchedTls(files)
        self._connection = _Connection(target, self._tls.current())
        self._replaced: set[_Connection] = set()
        self._signer: claims.Signer | None = None

    async def is_connected(self, timeout_s: float) -> bool:
        """Wait for the channel to connect. After False, no request has left this host."""
        channel = self._current().channel
        state = channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(timeout_s):
                while state is not grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    async def ask(
        self,
        rpc: Callable[[AgentAsyncStub], Callable[..., Awaitable[_Response]]],
        request: object,
        deadline_s: float,
    ) -> _Response:
        """Call a unary RPC of the agent's stub.

        Raises:
            OverspillError: what `overspill.errors.from_rpc_error` makes of the status.
        """
        connection = self._current()
        try:
            connection.begin_use()
            return await rpc(connection.stub)(request, timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            connection.end_use()

    def attach(self) -> AttachCall:
        """Begin to follow a run, without a deadline."""
        connection = self._current()
        call = connection.stub.Attach()
        connection.begin_use()
        call.add_done_callback(lambda _call: connection.end_use())
        return call

    def sign(self, request: agent_pb2.SubmitRequest) -> None:
        """Put a claim into the request, signed now with the key of the certificate in use.

        Raises:
            ConfigError: if that key is of a kind that signs no claims.
        """
        self._current()
        if self._signer is None:
            tls = self._tls.current()
            self._signer = claims.Signer(tls.certificate, tls.private_key)
        request.claim = self._signer.sign(claims.claim_of(request), utc_now())

    async def close(self) -> None:
        """Close the channels; what is under way is cancelled."""
        for connection in (self._connection, *self._replaced):
            await connection.channel.close()

    def _current(self) -> _Connection:
        tls = self._tls.current()
        if tls is not self._connection.tls:
            replaced, self._connection = self._connection, _Connection(self._target, tls)
            self._signer = None
            self._replaced.add(replaced)
            replaced.close_when_unused(self._replaced.discard)
        return self._connection


class _Connection:
    """One channel and the number of RPCs under way on it."""

    def __init__(self, target: str, tls: TlsMaterial) -> None:
        self.tls = tls
        self.channel = open_channel(target, tls)
        self.stub: AgentAsyncStub = AgentStub(self.channel)
        self._uses = 0
        self._on_close: Callable[[_Connection], None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def begin_use(self) -> None:
        self._uses += 1

    def end_use(self) -> None:
        self._uses -= 1
        self._close_if_unused()

    def close_when_unused(self, on_close: Callable[[_Connection], None]) -> None:
        """Close the channel as soon as nothing is under way on it; tell `on_close` then."""
        self._on_close = on_close
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._on_close is not None and self._uses == 0 and self._closing is None:
            self._closing = asyncio.create_task(self._close(self._on_close), name="close replaced channel")

    async def _close(self, on_close: Callable[[_Connection], None]) -> None:
        await self.channel.close()
        on_close(self)
