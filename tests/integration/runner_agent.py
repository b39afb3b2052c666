"""A small agent for one runner: the contract of `overspill.runner_protocol` over real TLS, in memory.

Everything that the real agent's operating may do to a runner can be done here at any moment: break its connections, be
away and come back on the same port, hold acknowledgements back, fence it off.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from overspill.runner_protocol import FRAME_HEADER, MAX_FRAME_BYTES, PATH_PREFIX, RunnerFrame

RUNNER = Path(__file__).parents[2] / "agent/overspill_runner/runner.py"
#: The interpreter that runs the runner: `OVERSPILL_TEST_RUNNER_PYTHON=python3.8 pytest tests/integration -k runner`.
PYTHON = os.environ.get("OVERSPILL_TEST_RUNNER_PYTHON", "/usr/bin/python3")
TOKEN = "a-token"
RUN_ID = "r-1"
_PATH = f"{PATH_PREFIX}/{RUN_ID}/1/"


@dataclass
class Work:
    """What the runner is to run."""

    script: bytes
    argv: list[bytes]
    cwd: bytes
    environment: list[bytes] = field(default_factory=lambda: [b"PATH=/usr/bin:/bin"])
    umask: int = 0o022
    rlimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    stdin: bytes | None = None
    is_output_joined: bool = False
    time_limit_s: int = 0
    time_limit_grace_s: int = 60
    kill_wait_s: int = 1
    lease_s: int = 30
    spool_bytes: int = 512 * 1024 * 1024

    def document(self) -> dict[str, Any]:
        return {
            "argv": [base64.b64encode(argument).decode() for argument in self.argv],
            "environment": [base64.b64encode(entry).decode() for entry in self.environment],
            "cwd": base64.b64encode(self.cwd).decode(),
            "umask": self.umask,
            "rlimits": self.rlimits,
            "has_stdin": self.stdin is not None,
            "is_output_joined": self.is_output_joined,
            "time_limit_s": self.time_limit_s,
            "time_limit_grace_s": self.time_limit_grace_s,
            "kill_wait_s": self.kill_wait_s,
            "lease_s": self.lease_s,
            "spool_bytes": self.spool_bytes,
        }


class RunnerAgent:
    """The agent's side of one run."""

    def __init__(self, work: Work, tls: ssl.SSLContext) -> None:
        self.work = work
        self.output = {RunnerFrame.STDOUT: bytearray(), RunnerFrame.STDERR: bytearray()}
        self.reports: list[dict[str, Any]] = []
        self.spec_status = 200
        self.is_fenced = False
        self.is_stopping = False
        self.are_acknowledgements_held = False
        self.keepalive_s = 0.2
        self.gaps = 0
        self.requests = 0
        self.changed = threading.Condition()
        self._signals: list[dict[str, Any]] = []
        self._tls = tls
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []

    # For tests

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def stdout(self) -> bytes:
        return bytes(self.output[RunnerFrame.STDOUT])

    @property
    def stderr(self) -> bytes:
        return bytes(self.output[RunnerFrame.STDERR])

    def reports_of(self, kind: str) -> list[dict[str, Any]]:
        return [report for report in self.reports if report["kind"] == kind]

    def wait_until(self, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Wait for a change that makes the condition true; fail if there is none in time."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), (self.stdout[-500:], self.stderr[-500:], self.reports)

    def wait_for_output(self, count: int) -> None:
        """Wait until so many bytes of standard output are here."""
        self.wait_until(lambda: len(self.output[RunnerFrame.STDOUT]) >= count)

    def signal(self, number: int, scope: str = "tree") -> int:
        """Ask for a signal; return its sequence number."""
        with self.changed:
            seq = len(self._signals) + 1
            self._signals.append({"seq": seq, "signal": number, "scope": scope})
            self.changed.notify_all()
        return seq

    def set(self, **attributes: object) -> None:
        with self.changed:
            for name, value in attributes.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def start(self) -> None:
        """Listen, on the same port as before."""
        agent = self

        class Handler(_Handler):
            agent_of_run = agent

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Stay silent: broken connections are what is tested."""

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away: nobody listens, and all connections are broken."""
        server, self._server = self._server, None
        assert server is not None
        server.shutdown()
        server.server_close()
        self.break_connections()

    def break_connections(self) -> None:
        with self.changed:
            connections, self._connections = self._connections, []
        for each in connections:
            with each as connection, contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # For the handler

    def wrap(self, connection: socket.socket) -> ssl.SSLSocket:
        with self.changed:
            if self._server is None:
                # Accepted a moment before the end, so not among those that were broken.
                raise ConnectionAbortedError("the agent has stopped")
            self._connections.append(connection.dup())
        return self._tls.wrap_socket(connection, server_side=True)

    def held(self) -> dict[str, int]:
        return {"stdout": len(self.stdout), "stderr": len(self.stderr), "seq": len(self.reports)}

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what a new events connection is told."""
        with self.changed:
            held = self.held()
        yield "hello", held
        told = 0
        is_stop_told = False
        while True:
            with self.changed:
                self.changed.wait(self.keepalive_s)
                current = held if self.are_acknowledgements_held else self.held()
                acknowledged = {report["seq"] for report in self.reports_of("signalled")}
                due = [signal for signal in self._signals[told:] if signal["seq"] not in acknowledged]
                told = len(self._signals)
            if current != held:
                held = current
                yield "ack", held
            for signal in due:
                yield "signal", signal
            if self.is_stopping and not is_stop_told:
                is_stop_told = True
                yield "stop", {}
            yield "keepalive", {}

    def take(self, kind: RunnerFrame, number: int, payload: bytes) -> bool:
        """Store what is new of a frame; return False where something is missing before it."""
        with self.changed:
            if kind is RunnerFrame.REPORT:
                if number == len(self.reports) + 1:
                    self.reports.append(json.loads(payload))
                is_gap = number > len(self.reports)
            else:
                stream = self.output[kind]
                is_gap = number > len(stream)
                if not is_gap:
                    stream += payload[len(stream) - number :]
            self.gaps += is_gap
            self.changed.notify_all()
        return not is_gap


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    agent_of_run: RunnerAgent

    def setup(self) -> None:
        self.request = self.agent_of_run.wrap(self.request)
        super().setup()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Stay silent."""

    def do_GET(self) -> None:
        if not self._is_authorised():
            return
        agent = self.agent_of_run
        name = self.path.removeprefix(_PATH)
        if name == "spec" and agent.spec_status != 200:
            self._answer(agent.spec_status)
        elif name == "spec":
            self._answer(200, json.dumps(agent.work.document()).encode())
        elif name in {"script", "stdin"}:
            self._answer(200, agent.work.script if name == "script" else agent.work.stdin or b"")
        elif name == "events":
            self._send_events()
        else:
            self._answer(404)

    def do_POST(self) -> None:
        if self._is_authorised():
            is_whole = all(self.agent_of_run.take(*frame) for frame in self._frames())
            self._answer(200 if is_whole else 400)
            self.close_connection = not is_whole

    def _is_authorised(self) -> bool:
        self.agent_of_run.requests += 1
        if self.headers["Authorization"] != "Bearer " + TOKEN:
            self._answer(401)
        elif not self.path.startswith(_PATH):
            self._answer(404)
        elif self.agent_of_run.is_fenced:
            self._answer(409)
        else:
            return True
        return False

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_events(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for name, data in self.agent_of_run.events():
            event = f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    def _frames(self) -> Iterator[tuple[RunnerFrame, int, bytes]]:
        buffer = bytearray()
        while length := int(self.rfile.readline(), 16):
            buffer += self.rfile.read(length)
            self.rfile.readline()
            while len(buffer) >= FRAME_HEADER.size:
                kind, size, number = FRAME_HEADER.unpack_from(buffer)
                assert size <= MAX_FRAME_BYTES
                if len(buffer) < FRAME_HEADER.size + size:
                    break
                yield RunnerFrame(kind), number, bytes(buffer[FRAME_HEADER.size : FRAME_HEADER.size + size])
                del buffer[: FRAME_HEADER.size + size]
        self.rfile.readline()


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Poll until the condition is true; fail after the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class RunnerProcess:
    """A real runner, as a backend starts it."""

    def __init__(
        self, agent: RunnerAgent, directory: Path, prefix: Sequence[str] = (), options: Sequence[str] = ()
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / "token").write_text(TOKEN + "\n")
        authority().cert_pem.write_to_path(str(directory / "ca.pem"))
        arguments = ["--url", agent.url, "--run", RUN_ID, "--attempt", "1"]
        arguments += ["--token-file", str(directory / "token"), "--ca-file", str(directory / "ca.pem"), *options]
        self._log = directory / "runner.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, PYTHON, "-I", "-S", str(RUNNER), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", "ONLY_THE_RUNNER": "sees this"},
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait(self, timeout_s: float = 20.0) -> int:
        """Return the runner's exit code once it has ended."""
        return self.process.wait(timeout_s)


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


@functools.cache
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@contextlib.contextmanager
def running(
    work: Work,
    directory: Path,
    prefix: Sequence[str] = (),
    options: Sequence[str] = (),
    tls: ssl.SSLContext | None = None,
    **state: object,
) -> Iterator[tuple[RunnerAgent, RunnerProcess]]:
    """Run some work under a real runner with an agent of its own; leave nothing behind.

    Args:
        work: what the agent gives to the runner.
        directory: the runner's own; made.
        prefix: command that starts the runner's interpreter, `nohup` for example.
        options: more options for the runner.
        tls: the agent's certificate, where it is not to be the site's.
        state: attributes of the agent from the beginning.
    """
    agent = RunnerAgent(work, tls or server_tls(authority()))
    agent.set(**state)
    agent.start()
    runner = RunnerProcess(agent, directory, prefix, options)
    try:
        yield agent, runner
    finally:
        runner.process.kill()
        runner.process.wait()
        agent.stop()


def work_in(directory: Path, script: str | bytes, *arguments: bytes, **more: Any) -> Work:
    """Return work whose paths lie in a test's directory. `script` without a shebang line is bash's."""
    content = script.encode() if isinstance(script, str) else script
    if not content.startswith(b"#!"):
        content = b"#!/bin/bash\n" + content
    cwd = directory / "submit"
    cwd.mkdir(exist_ok=True)
    argv = [os.fsencode(directory / "spool/job00001/slurm_script"), *arguments]
    return Work(script=content, argv=argv, cwd=os.fsencode(cwd), **more)
