"""A runner without processes: speaks `overspill.runner_protocol` as real ones do, and acts its script (`fake_stage`).

It has its end of the connection and nothing else of the agent's; so what the agent does for it, it does for any.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM
from typing import TypeVar
from urllib.parse import urlsplit

from overspill.runner_protocol import FRAME_HEADER, INSTANCE_HEADER, MAX_FRAME_BYTES, PATH_PREFIX, RunnerFrame
from overspill_agent.backends.base import Launch
from overspill_agent.backends.fake_stage import ScriptEndedError, Stage

T = TypeVar("T")
_RETRY_S = 0.2
_TICK_S = 0.05
_OK, _CONFLICT = 200, 409
_KINDS = {"say": RunnerFrame.STDOUT, "complain": RunnerFrame.STDERR}


class FencedError(Exception):
    """The attempt is another's, or over."""


class RefusedError(Exception):
    """The agent's answer is neither 200 nor 409."""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> int:
        """Return the length of the answer's body, -1 where it is chunked.

        Raises:
            FencedError, RefusedError: it has another status than 200.
        """
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        status = int(head[0].split()[1])
        if status == _CONFLICT:
            raise FencedError
        if status != _OK:
            raise RefusedError(head[0])
        lengths = [line.partition(":")[2] for line in head if line.startswith("content-length:")]
        return int(lengths[0]) if lengths else -1

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline() or b"0", 16):
            yield (await self.reader.readexactly(size + 2))[:-2]


class Outbox:
    """Frames in their order, kept to the end: each new connection gets all of them."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._news = asyncio.Event()
        self.ends = dict.fromkeys(RunnerFrame, 0)
        self.is_complete = False

    def add(self, kind: RunnerFrame, payload: bytes) -> None:
        number = self.ends[kind]
        self.ends[kind] = number + 1 if kind is RunnerFrame.REPORT else number + len(payload)
        frame_number = number + 1 if kind is RunnerFrame.REPORT else number
        self._frames.append(FRAME_HEADER.pack(kind, len(payload), frame_number) + payload)
        self._news.set()

    def write(self, kind: RunnerFrame, data: bytes) -> None:
        for start in range(0, len(data), MAX_FRAME_BYTES):
            self.add(kind, data[start : start + MAX_FRAME_BYTES])

    def report(self, **report: object) -> None:
        self.is_complete = report["kind"] == "ended"
        self.add(RunnerFrame.REPORT, json.dumps(report).encode())

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield every frame there ever was and will be."""
        told = 0
        while True:
            self._news.clear()
            for frame in self._frames[told:]:
                yield frame
            told = len(self._frames)
            if self.is_complete and not self._news.is_set():
                return
            await self._news.wait()


class FakeRunner:
    """One attempt's runner. Who cancels `run` has killed it, with all that is its."""

    def __init__(self, launch: Launch, devices: tuple[str, ...]) -> None:
        """Prepare; `devices` are the GPUs that the run gets."""
        url = urlsplit(launch.agent_url)
        self._host, self._port = url.hostname or "", url.port or 443
        self._head = (
            f"{PATH_PREFIX}/{launch.run_id}/{launch.attempt}/%s HTTP/1.1\r\nHost: {self._host}\r\n"
            f"Authorization: Bearer {launch.token}\r\n{INSTANCE_HEADER}: {os.urandom(16).hex()}\r\n"
        )
        self._tls = ssl.create_default_context(cadata=launch.ca_pem.decode())
        self._outbox = Outbox()
        self._signal_seq = 0
        self._heard_at = time.monotonic()
        self._is_lease_lost = self._is_timed_out = False
        self._stage = Stage(launch.demand.resources, devices, lambda act, data: self._outbox.write(_KINDS[act], data))

    @property
    def processes(self) -> int:
        """How many processes there would be of the script."""
        return self._stage.processes

    async def run(self) -> None:
        """Fetch, act and report; return when the agent has the end, or wants nothing of this attempt any more."""
        try:
            spec = json.loads(await self._until_done(lambda: self._get("spec")))
            script = await self._until_done(lambda: self._get("script"))
        except FencedError:
            return
        self._outbox.report(kind="started", pid=1)
        upload = asyncio.create_task(self._until_done(self._upload), name="fake upload")
        beside = [
            asyncio.create_task(self._play(script.decode()), name="fake script"),
            asyncio.create_task(self._until_done(self._follow), name="fake events"),
            asyncio.create_task(self._watch_clocks(spec), name="fake clocks"),
        ]
        try:
            await asyncio.wait({upload})
        finally:
            for task in (*beside, upload):
                task.cancel()
            await asyncio.gather(*beside, upload, return_exceptions=True)

    async def _play(self, script: str) -> None:
        try:
            await self._stage.play(script)
        except ScriptEndedError as end:
            how = {"signal": end.signal} if end.signal else {"exit_code": end.exit_code}
            self._outbox.report(
                kind="ended",
                timed_out=self._is_timed_out,
                lease_lost=self._is_lease_lost,
                oom_kills=self._stage.oom_kills,
                user_cpu_ms=self._stage.cpu_ms,
                stdout=self._outbox.ends[RunnerFrame.STDOUT],
                stderr=self._outbox.ends[RunnerFrame.STDERR],
                **how,
            )

    async def _watch_clocks(self, spec: dict[str, int]) -> None:
        """End the script at its time limit, where Slurm has not, and with its lease."""
        limit_s = spec["time_limit_s"] + spec["time_limit_grace_s"] if spec["time_limit_s"] else float("inf")
        began_at = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            elapsed_s = time.monotonic() - began_at
            if elapsed_s > limit_s and not self._is_timed_out:
                self._is_timed_out = True
                self._stage.signal(SIGTERM)
            self._is_lease_lost = self._is_lease_lost or time.monotonic() - self._heard_at > spec["lease_s"]
            if self._is_lease_lost or elapsed_s > limit_s + spec["kill_wait_s"]:
                self._stage.signal(SIGKILL)

    # The agent

    async def _until_done(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again until there is an answer, for as long as it takes.

        Raises:
            FencedError: the attempt is over.
        """
        while True:
            try:
                return await ask()
            except (OSError, EOFError, RefusedError):
                await asyncio.sleep(_RETRY_S)

    @asynccontextmanager
    async def _asked(self, method: str, name: str, fields: str = "") -> AsyncIterator[_Connection]:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            writer.write(f"{method} {self._head % name}{fields}\r\n".encode())
            await writer.drain()
            yield _Connection(reader, writer)
        finally:
            writer.transport.abort()

    async def _get(self, name: str) -> bytes:
        async with self._asked("GET", name) as connection:
            return await connection.reader.readexactly(await connection.answer())

    async def _follow(self) -> None:
        async with self._asked("GET", "events") as connection:
            await connection.answer()
            begun = b""
            async for chunk in connection.chunks():
                *whole, begun = (begun + chunk).split(b"\n\n")
                for event in whole:
                    self._take_event(dict(line.split(": ", 1) for line in event.decode().split("\n")))
        raise ConnectionResetError("the agent has ended the events")

    def _take_event(self, event: dict[str, str]) -> None:
        self._heard_at = time.monotonic()
        data = json.loads(event["data"])
        if event["event"] == "stop":
            self._stage.signal(SIGKILL)
        elif event["event"] == "signal" and data["seq"] > self._signal_seq:
            self._signal_seq = data["seq"]
            self._stage.signal(data["signal"], data["scope"])
            if not self._outbox.is_complete:
                self._outbox.report(kind="signalled", seq=data["seq"])

    async def _upload(self) -> None:
        async with self._asked("POST", "upload", "Transfer-Encoding: chunked\r\n") as connection:
            async for frame in self._outbox.frames():
                connection.writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
                await connection.writer.drain()
            connection.writer.write(b"0\r\n\r\n")
            await connection.answer()
