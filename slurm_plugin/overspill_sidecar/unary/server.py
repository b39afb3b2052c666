"""The server: one thread that waits for all its clients at once and answers each call before the next."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog

from overspill.errors import OverspillError
from overspill_sidecar.unary.connection import Call, Connection
from overspill_sidecar.unary.frames import ProtocolError

_log = structlog.get_logger(__name__)

#: Gets a request's bytes, returns the response's. It must be quick: nobody else is answered meanwhile.
Handler = Callable[[bytes], bytes]
#: Gets the method of a call that was answered, and the seconds from when its last bytes were there to read until its
#: answer was with the kernel.
Timekeeper = Callable[[str, float], None]

_BACKLOG = 128
_READ_BYTES = 256 * 1024
#: While the process has no descriptor left, connections wait; epoll would return for them without end.
_ACCEPT_PAUSE_S = 0.5
#: What a client that does not read may leave unread before it is dropped.
_MAX_UNSENT_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    connection: Connection = field(default_factory=Connection)
    unsent: bytes = b""
    #: Methods of the calls whose answers are not with the kernel yet.
    answered: list[str] = field(default_factory=list)


class UnaryServer:
    """Answers unary calls on a Unix socket that only our own user may open.

    The handlers run in the server's thread, one at a time, so what only they touch needs no lock.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler], timekeeper: Timekeeper | None = None) -> None:
        """Prepare to serve.

        Args:
            path: where to listen; the caller holds its `SocketPath`.
            handlers: by method, "/package.Service/Method".
            timekeeper: told how long each call took.
        """
        self._path = path
        self._handlers = dict(handlers)
        self._timekeeper = timekeeper
        self._clients: dict[int, _Client] = {}
        #: On the monotonic clock; None while connections are taken.
        self._accepts_again_at: float | None = None

    async def run(self, listening: asyncio.Event) -> None:
        """Serve until cancelled; clients are then cut off between two calls.

        Args:
            listening: set as soon as clients can connect.
        """
        stop_read, stop_write = os.pipe()
        try:
            with self._listen() as listener, ThreadPoolExecutor(1, thread_name_prefix="decide") as thread:
                listening.set()
                serving = asyncio.get_running_loop().run_in_executor(thread, self._serve, listener, stop_read)
                try:
                    await asyncio.shield(serving)
                finally:
                    os.write(stop_write, b"\0")
        finally:
            os.close(stop_read)
            os.close(stop_write)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        self._path.chmod(0o600)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener

    def _serve(self, listener: socket.socket, stop_fd: int) -> None:
        with select.epoll() as poll:
            poll.register(listener, select.EPOLLIN)
            poll.register(stop_fd, select.EPOLLIN)
            try:
                while True:
                    ready = poll.poll(self._until_accepting(listener, poll))
                    began_at = time.monotonic()
                    for fd, events in ready:
                        if fd == stop_fd:
                            return
                        if fd == listener.fileno():
                            self._accept(listener, poll)
                        else:
                            self._attend(fd, events, poll)
                            self._time(fd, began_at)
            finally:
                for client in self._clients.values():
                    client.socket.close()
                self._clients.clear()

    def _until_accepting(self, listener: socket.socket, poll: select.epoll) -> float | None:
        """Return the seconds for which no connection is to be taken; None if there are none."""
        if self._accepts_again_at is None:
            return None
        left_s = self._accepts_again_at - time.monotonic()
        if left_s > 0:
            return left_s
        self._accepts_again_at = None
        poll.modify(listener, select.EPOLLIN)
        return None

    def _accept(self, listener: socket.socket, poll: select.epoll) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError as error:
            _log.warning("no connection taken", action="accept_failed", reason=str(error))
            poll.modify(listener, 0)
            self._accepts_again_at = time.monotonic() + _ACCEPT_PAUSE_S
            return
        accepted.setblocking(False)
        fd = accepted.fileno()
        self._clients[fd] = _Client(accepted)
        poll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
        self._attend(fd, 0, poll)  # the greeting

    def _attend(self, fd: int, events: int, poll: select.epoll) -> None:
        """Do what one client's socket is ready for. A client that is gone gets no decision: nobody would apply it."""
        client = self._clients[fd]
        is_gone = bool(events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR))
        try:
            if is_gone or (events & select.EPOLLIN and not self._read(client)):
                self._drop(fd, poll)
                return
            is_behind = bool(client.unsent)
            self._write(client)
        except (OSError, ProtocolError) as error:
            _log.debug("connection ended", action="client_dropped", reason=str(error))
            self._drop(fd, poll)
            return
        if is_behind or client.unsent:
            waits_for = select.EPOLLOUT if client.unsent else 0
            poll.modify(fd, select.EPOLLIN | select.EPOLLRDHUP | waits_for)

    def _time(self, fd: int, began_at: float) -> None:
        client = self._clients.get(fd)
        if client is None or client.unsent or not client.answered:
            return
        took_s = time.monotonic() - began_at
        for method in client.answered:
            if self._timekeeper is not None:
                self._timekeeper(method, took_s)
        client.answered.clear()

    def _drop(self, fd: int, poll: select.epoll) -> None:
        poll.unregister(fd)
        self._clients.pop(fd).socket.close()

    def _read(self, client: _Client) -> bool:
        """Take in what is there and answer it; return False at the end of the stream."""
        data = client.socket.recv(_READ_BYTES)
        for call in client.connection.receive(data):
            self._answer(client.connection, call)
            client.answered.append(call.path)
        return bool(data)

    def _answer(self, connection: Connection, call: Call) -> None:
        handler = self._handlers.get(call.path)
        if handler is None:
            connection.fail(call, grpc.StatusCode.UNIMPLEMENTED, f"there is no method {call.path}")
            return
        try:
            message = handler(call.message)
        except OverspillError as error:
            connection.fail(call, error.code, error.reason)
        except Exception:  # noqa: BLE001 - the RPC's edge; logged with its traceback
            _log.exception("call failed", action="call_failed", method=call.path)
            connection.fail(call, grpc.StatusCode.INTERNAL, "defect: see the sidecar's log")
        else:
            connection.answer(call, message)

    def _write(self, client: _Client) -> None:
        """Send what the socket takes.

        Raises:
            ProtocolError: if the client has left too much unread.
        """
        output = client.unsent + client.connection.take_output()
        if not output:
            return
        try:
            sent = client.socket.send(output)
        except BlockingIOError:
            sent = 0
        client.unsent = output[sent:]
        if len(client.unsent) > _MAX_UNSENT_BYTES:
            raise ProtocolError("the client does not read its answers")
