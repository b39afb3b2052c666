"""The Docker SDK, called from nowhere else: one owner with threads of its own, because all of it blocks.

Every answer is read into `reading`'s types. An engine that does not answer raises `UnavailableError`, as does one that
cannot do it now; `ExhaustedError` where its host is short of something; `RefusedError` for all else.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import requests
import structlog
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.types.daemon import CancellableStream
from docker.utils import parse_repository_tag

from overspill.errors import UnavailableError
from overspill_agent.backends.docker import reading
from overspill_agent.backends.docker.container import AGENT_LABEL, RUN_LABEL
from overspill_agent.backends.docker.reading import Container, EngineFacts, Listed, RefusedError

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

_THREADS = 8
#: Of their own, for a pull takes minutes, and nothing else may wait for it.
_PULLS_AT_ONCE = 2
_TIMEOUT_S = 60
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class Engine:
    """One engine on this host. Methods may be called at once; each connects for itself, and again after a restart."""

    def __init__(self, socket_url: str) -> None:
        """Connect to nothing yet; `socket_url` is "unix:///path"."""
        self._socket = socket_url
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._pulls = ThreadPoolExecutor(_PULLS_AT_ONCE, thread_name_prefix="docker pull")
        self._is_closing = threading.Event()
        self._of_thread = threading.local()
        self._clients: list[APIClient] = []

    async def facts(self) -> EngineFacts:
        return reading.engine_facts(await self._call("look at itself", lambda client: client.info()))

    async def has_network(self, name: str) -> bool:
        return await self._found("look at a network", lambda client: client.inspect_network(name)) is not None

    async def image_id(self, reference: str) -> str | None:
        """Return the id of an image; None if it is not there."""
        image = await self._found("look at an image", lambda client: client.inspect_image(reference))
        return None if image is None else str(image["Id"])

    async def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        """Fetch an image from its registry, however long that takes; `progress` is called in another thread.

        Raises:
            RefusedError: it cannot be had; says why.
        """
        await self._call("pull an image", lambda client: self._pull(client, reference, progress), self._pulls)

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return its id.

        Raises:
            RefusedError: `is_conflict` if there is one of this name.
        """
        created = await self._call(
            "create a container", lambda client: client.create_container_from_config(dict(body), name)
        )
        return str(created["Id"])

    async def start(self, name: str) -> None:
        await self._call("start a container", lambda client: client.start(name))

    async def inspect(self, name: str) -> Container | None:
        """Return a container; None if there is none."""
        inspected = await self._found("look at a container", lambda client: client.inspect_container(name))
        return None if inspected is None else reading.container(inspected)

    async def wait(self, name: str, timeout_s: float) -> None:
        """Wait until a container has ended.

        Raises:
            UnavailableError: it has not, in this time.
        """
        await self._call("wait for a container", lambda client: client.wait(name, timeout=int(timeout_s)))

    async def output(self, name: str, *, is_error: bool = False, lines: int | None = None) -> bytes:
        """Return what a container's first process has written, or its last lines."""
        tail: int | Literal["all"] = "all" if lines is None else lines
        output = await self._call(
            "read a container's log", lambda client: client.logs(name, stdout=not is_error, stderr=is_error, tail=tail)
        )
        return bytes(output)

    async def kill(self, name: str) -> None:
        """Kill a container's processes, paused ones too; nothing happens where there are none."""
        try:
            await self._found("kill a container", lambda client: client.kill(name, "SIGKILL"))
        except RefusedError as refused:
            if not refused.is_conflict:
                raise

    async def remove(self, name: str, *, even_alive: bool = True) -> None:
        """Kill and remove a container, with volumes that its image has declared; nothing happens where there is none.

        Raises:
            RefusedError: `is_conflict` while somebody else is removing it, or if it lives and may not be killed.
        """
        await self._found("remove a container", lambda client: client.remove_container(name, v=True, force=even_alive))

    async def containers(self, agent: str, run_id: str | None = None) -> tuple[Listed, ...]:
        """Return an agent's containers, whatever their state; one run's if it is given."""
        wanted = [f"{AGENT_LABEL}={agent}"] + ([f"{RUN_LABEL}={run_id}"] if run_id is not None else [])
        found = await self._call(
            "list containers", lambda client: client.containers(all=True, filters={"label": wanted})
        )
        return tuple(map(reading.listed, found))

    def follow(self, agent: str) -> Followed:
        """Return the events of an agent's containers, not followed yet."""
        return Followed(self._socket, agent)

    def close(self) -> None:
        """Let go of the engine; calls that are under way end by themselves, or when they next ask it something."""
        self._is_closing.set()
        for threads in (self._threads, self._pulls):
            threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    async def _found(self, doing: str, ask: Callable[[APIClient], Answer]) -> Answer | None:
        """Return the answer; None where the engine has no such thing."""

        def ask_for_one(client: APIClient) -> Answer | None:
            try:
                return ask(client)
            except NotFound:
                return None

        return await self._call(doing, ask_for_one)

    async def _call(
        self, doing: str, ask: Callable[[APIClient], Answer], threads: ThreadPoolExecutor | None = None
    ) -> Answer:
        context, loop = contextvars.copy_context(), asyncio.get_running_loop()
        return await loop.run_in_executor(threads or self._threads, context.run, self._ask, doing, ask)

    def _pull(self, client: APIClient, reference: str, progress: Callable[[str], None]) -> None:
        """Fetch an image; the engine tells of a failure in the middle of its answer, not by the answer's status."""
        repository, tag = parse_repository_tag(reference)
        for line in client.pull(repository, tag or "latest", stream=True, decode=True):
            if "error" in line:
                raise reading.refusal("pull an image", 0, str(line["error"]))
            if self._is_closing.is_set():
                return
            progress(" ".join(str(line[key]) for key in ("id", "status", "progress") if line.get(key)))

    def _ask(self, doing: str, ask: Callable[[APIClient], Answer]) -> Answer:
        try:
            _knock(self._socket)
            return ask(self._client())
        except APIError as error:
            raise reading.refusal(doing, error.status_code or 0, error.explanation or str(error)) from error
        except (DockerException, requests.RequestException) as error:
            raise UnavailableError(f"the container engine at {self._socket} does not answer: {error}") from error

    def _client(self) -> APIClient:
        """Return this thread's own client: they are not made for several at once."""
        if not hasattr(self._of_thread, "client"):
            self._of_thread.client = APIClient(self._socket, version="auto", timeout=_TIMEOUT_S)
            self._clients.append(self._of_thread.client)
        client: APIClient = self._of_thread.client
        return client


class Followed:
    """What happens to an agent's containers, in a thread of its own that connects again for as long as it must."""

    def __init__(self, socket_url: str, agent: str) -> None:
        self._socket = socket_url
        self._agent = agent
        self._is_closing = threading.Event()
        self._stream: CancellableStream[dict[str, Any]] | None = None
        self._thread = threading.Thread(target=self._run, name="docker events", daemon=True)
        self._on_connection: Callable[[EngineFacts | None], None] = lambda _facts: None
        self._on_event: Callable[[Mapping[str, Any]], None] = lambda _event: None

    def start(
        self, on_connection: Callable[[EngineFacts | None], None], on_event: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Begin; both are called in the thread.

        Args:
            on_connection: with what the engine says of itself, each time events begin to come; with None when it is
                away. What has happened in between is not told.
            on_event: with each event.
        """
        self._on_connection, self._on_event = on_connection, on_event
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_closing.set()
        self._end_stream()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        pause_s, was_there = _FIRST_PAUSE_S, True
        while not self._is_closing.is_set():
            try:
                self._follow()
                pause_s, was_there = _FIRST_PAUSE_S, True
            except (DockerException, requests.RequestException, UnavailableError) as error:
                if was_there:
                    log.warning("container engine is away", action="engine_away", reason=str(error))
            except Exception:
                log.exception("events of the container engine are not understood", action="events_failed")
            if self._is_closing.is_set():
                return
            was_there = False
            self._on_connection(None)
            self._is_closing.wait(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    def _follow(self) -> None:
        _knock(self._socket)
        wanted = {"type": "container", "event": ["die", "destroy"], "label": f"{AGENT_LABEL}={self._agent}"}
        with contextlib.closing(APIClient(self._socket, version="auto", timeout=_TIMEOUT_S)) as client:
            self._stream = client.events(filters=wanted, decode=True)
            try:
                if not self._is_closing.is_set():
                    self._on_connection(reading.engine_facts(client.info()))
                    for event in self._stream:
                        self._on_event(event)
            finally:
                self._end_stream()

    def _end_stream(self) -> None:
        """Break off the stream, from whichever thread; nothing happens if there is none any more."""
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(OSError, AttributeError):  # the SDK finds none of its own where it has just ended
                stream.close()


def _knock(socket_url: str) -> None:
    """See whether somebody listens; what the SDK says of it where nobody does no operator understands.

    Raises:
        UnavailableError: nobody does.
    """
    path = socket_url.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TIMEOUT_S)  # of an engine that stands still the queue is full some day
        try:
            probe.connect(path)
        except OSError as error:
            raise UnavailableError(f"no container engine answers at {path}: {error.strerror or error}") from error
