"""The router's server with grpcio's own client, and with clients that come and go as they like."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc.aio
import pytest
from structlog.testing import capture_logs

from overspill.errors import NotFoundError
from overspill_sidecar.unary import UnaryServer, frames
from tests.unit.test_sidecar_unary import HELLO, PATH, request

ECHO = PATH
DEFECT, MISSING, WAIT = "/test/Defect", "/test/Missing", "/test/Wait"


class Office:
    """A server with a few methods, a client, and a door that keeps the server's thread waiting."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.door, self.is_waiting = threading.Event(), threading.Event()
        self.handled: list[bytes] = []
        handlers = {ECHO: self._echo, DEFECT: self._defect, MISSING: self._missing, WAIT: self._wait}
        self.took: list[tuple[str, float]] = []
        self.server = UnaryServer(path, handlers, lambda *took: self.took.append(took))
        options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        self.channel = grpc.aio.insecure_channel(f"unix:{path}", options=options)

    async def call(self, method: str, message: bytes = b"") -> bytes:
        plain: Callable[[bytes], bytes] = bytes
        rpc = self.channel.unary_unary(method, request_serializer=plain, response_deserializer=plain)
        return bytes(await rpc(message, timeout=30))

    async def status(self, method: str, message: bytes = b"") -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, message)
        return caught.value.code(), caught.value.details() or ""

    def _echo(self, message: bytes) -> bytes:
        self.handled.append(message)
        return message

    def _defect(self, _: bytes) -> bytes:
        raise ZeroDivisionError

    def _missing(self, _: bytes) -> bytes:
        raise NotFoundError("no decision “d-1” is kept")

    def _wait(self, message: bytes) -> bytes:
        self.is_waiting.set()
        self.door.wait(30)
        return message


@pytest.fixture(name="office")
async def _office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path / "office.sock")
    listening = asyncio.Event()
    serving = asyncio.create_task(office.server.run(listening))
    await listening.wait()
    yield office
    office.door.set()
    await office.channel.close()
    serving.cancel()
    await asyncio.wait([serving])


@pytest.mark.parametrize("size", [0, 1, 100_000, 16_000_000])
async def test_requests_and_answers_of_any_size_arrive_whole(office: Office, size: int) -> None:
    message = bytes(number % 251 for number in range(1000)) * (size // 1000) + b"." * (size % 1000)
    assert await office.call(ECHO, message) == message


async def test_calls_of_many_at_once_are_all_answered(office: Office) -> None:
    messages = [b"%d" % number for number in range(300)]
    assert await asyncio.gather(*(office.call(ECHO, message) for message in messages)) == messages


async def test_what_goes_wrong_is_a_status_and_the_connection_goes_on(office: Office) -> None:
    assert await office.status(MISSING) == (grpc.StatusCode.NOT_FOUND, "no decision “d-1” is kept")
    assert (await office.status(DEFECT))[0] is grpc.StatusCode.INTERNAL
    assert (await office.status("/test/Unknown"))[0] is grpc.StatusCode.UNIMPLEMENTED
    assert (await office.status(ECHO, b"." * 17_000_000))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await office.call(ECHO, b"still there") == b"still there"


async def test_how_long_each_call_took_is_told_whatever_came_of_it(office: Office) -> None:
    assert await office.call(ECHO, b"x") == b"x"
    assert (await office.status(DEFECT))[0] is grpc.StatusCode.INTERNAL
    assert await office.call(ECHO, b"y") == b"y"
    assert [method for method, _ in office.took][:2] == [ECHO, DEFECT]
    assert all(0 < seconds < 30 for _, seconds in office.took)


async def test_who_is_gone_gets_no_decision(office: Office) -> None:
    waiting = asyncio.create_task(office.call(WAIT))
    assert await asyncio.to_thread(office.is_waiting.wait, 30)
    with socket.socket(socket.AF_UNIX) as impatient:
        impatient.connect(str(office.path))
        impatient.sendall(HELLO + request(1, b"x"))
    office.door.set()
    await waiting
    assert await office.call(ECHO, b"after") == b"after"
    assert office.handled == [b"after"]


async def test_a_client_that_talks_nonsense_harms_only_itself(office: Office) -> None:
    reader, writer = await asyncio.open_unix_connection(office.path)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    received = await reader.read()
    assert frames.read_frames(received)[0][0].type == frames.SETTINGS
    writer.close()
    assert await office.call(ECHO, b"x") == b"x"


async def test_without_descriptors_it_rests_answers_whom_it_has_and_takes_the_others_later(office: Office) -> None:
    assert await office.call(ECHO, b"before") == b"before"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as newcomer, capture_logs() as logs:
        newcomer.setblocking(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            newcomer.connect(str(office.path))
            for _ in range(50):
                assert await office.call(ECHO, b"meanwhile") == b"meanwhile"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        greeting = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(newcomer, 100), 30)
    assert frames.read_frames(greeting)[0][0].type == frames.SETTINGS
    assert 1 <= len([line for line in logs if line["action"] == "accept_failed"]) <= 10


async def test_cancelled_it_lets_go_of_the_socket_and_of_its_clients(tmp_path: Path) -> None:
    office = Office(tmp_path / "office.sock")
    listening = asyncio.Event()
    serving = asyncio.create_task(office.server.run(listening))
    await listening.wait()
    reader, writer = await asyncio.open_unix_connection(office.path)
    serving.cancel()
    await asyncio.wait([serving])
    await reader.read()
    assert reader.at_eof()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(office.path)
    await office.channel.close()
