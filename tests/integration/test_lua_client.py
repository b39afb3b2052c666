"""The shim under the real Lua 5.1 and lua-socket, against real gRPC servers and against peers that misbehave."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHIM = HERE.parents[1] / "slurm_plugin" / "job_submit"
DEADLINE_S = 0.3
MARGIN_S = 0.25  # what a busy machine may cost a process; below a deadline, so that waiting for two would show
DIVERTED, LOCAL = "batch,overspill", ""


@dataclass(frozen=True, slots=True)
class Submission:
    """What one call of the hook did."""

    code: int
    partition: str
    logged: str
    took_s: float


class Submitter:
    """A process that holds the shim as slurmctld does."""

    def __init__(self, path: Path, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        argv = ["lua5.1", str(HERE / "lua_submitter.lua"), str(SHIM), str(path), str(deadline_s)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, line: str) -> Submission:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = time.monotonic()
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        code, partition, logged = self._process.stdout.readline().rstrip("\n").split("\t")
        return Submission(int(code), partition, logged, time.monotonic() - began)

    def submit(self, name: str = "job") -> Submission:
        """Submit a job; whatever becomes of it, it is over in time."""
        submission = self._ask(f"submit {name}")
        assert submission.took_s < self._deadline_s + MARGIN_S
        return submission

    def move_clock(self, seconds: float) -> None:
        self._ask(f"clock {seconds}")

    def open_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate(timeout=10)
        assert self._process.returncode == 0


@contextmanager
def router(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the router on `path` and yield its process, which may be dead at the end."""
    argv = [sys.executable, str(HERE / "lua_router.py"), str(path), *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        try:
            yield process
        finally:
            process.kill()


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a child and return when its last thread has stopped: until then one of the others may answer."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


@contextmanager
def raw_peer(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Listen on `path` and give every connection to `serve`, one after the other."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def accept_until_closed() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        serve(connection)
                    except (BrokenPipeError, ConnectionResetError):
                        continue

        thread = threading.Thread(target=accept_until_closed, name="raw peer")
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)
            assert not thread.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "router.sock"


@pytest.fixture
def submitter(path: Path) -> Iterator[Submitter]:
    process = Submitter(path)
    yield process
    process.close()


def test_a_job_is_diverted_left_or_refused_as_the_router_says(path: Path, submitter: Submitter) -> None:
    with router(path):
        assert submitter.submit().partition == DIVERTED
        assert submitter.submit("local").partition == LOCAL
        refused = submitter.submit("refuse")
        assert (refused.code, refused.partition, refused.logged) == (2002, LOCAL, "no")


def test_one_connection_serves_many_submissions(path: Path, submitter: Submitter) -> None:
    with router(path):
        before = submitter.open_descriptors()
        times_s = [submitter.submit().took_s for _ in range(1000)]
        assert submitter.open_descriptors() == before + 1
    p50_us, p99_us = (round(sorted(times_s)[index] * 1e6) for index in (500, 990))
    print(f"one submission, pipe to the test included: p50 {p50_us} us, p99 {p99_us} us")


@pytest.mark.parametrize("name", ["big", "large"])
def test_large_requests_and_answers_arrive_whole(path: Path, submitter: Submitter, name: str) -> None:
    with router(path):
        assert [submitter.submit(name).partition for _ in range(20)] == [DIVERTED] * 20


def test_an_answer_of_a_megabyte_is_refused(path: Path, submitter: Submitter) -> None:
    with router(path):
        assert submitter.submit("huge").partition == LOCAL
        assert submitter.submit().partition == DIVERTED


def test_an_error_status_leaves_the_job_local_and_the_connection_usable(path: Path, submitter: Submitter) -> None:
    with router(path):
        assert submitter.submit("abort").partition == LOCAL
        assert submitter.submit().partition == DIVERTED


def test_without_a_sidecar_jobs_run_locally_at_once(path: Path, submitter: Submitter) -> None:
    submissions = [submitter.submit() for _ in range(50)]
    assert {(each.code, each.partition) for each in submissions} == {(0, LOCAL)}
    assert statistics.median(each.took_s for each in submissions) < DEADLINE_S / 10
    (told,) = (each.logged for each in submissions if each.logged)
    assert told == (
        f"overspill: no answer from the sidecar at {path} (unavailable: connect: No such file or directory): "
        "jobs run locally, next try in 1 s"
    )


def test_a_stale_socket_file_is_like_no_sidecar(path: Path, submitter: Submitter) -> None:
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    submissions = [submitter.submit() for _ in range(5)]
    assert {each.partition for each in submissions} == {LOCAL}
    assert "connection refused" in submissions[2].logged


def test_a_sidecar_that_starts_later_is_found_after_the_pause(path: Path, submitter: Submitter) -> None:
    for _ in range(5):
        submitter.submit()
    with router(path):
        submitter.move_clock(1)
        found = submitter.submit()
        assert (found.partition, found.logged) == (DIVERTED, "overspill: the sidecar answers again")


def test_a_stopped_sidecar_costs_one_deadline_and_then_nothing_until_it_is_back(
    path: Path, submitter: Submitter
) -> None:
    with router(path) as process:
        assert submitter.submit().partition == DIVERTED
        stop(process)
        first = submitter.submit()
        assert (first.partition, first.took_s > DEADLINE_S / 2) == (LOCAL, True)
        others = [submitter.submit() for _ in range(50)]
        assert statistics.median(each.took_s for each in others) < DEADLINE_S / 10
        process.send_signal(signal.SIGCONT)
        submitter.move_clock(30)
        assert submitter.submit().partition == DIVERTED


def test_a_sidecar_stopped_before_the_first_call_costs_one_deadline(path: Path, submitter: Submitter) -> None:
    with router(path) as process:
        stop(process)
        assert submitter.submit().partition == LOCAL
        assert submitter.submit().took_s < DEADLINE_S / 2


def test_a_slow_answer_costs_one_deadline(path: Path, submitter: Submitter) -> None:
    with router(path):
        late = submitter.submit("slow")
        assert (late.partition, late.took_s > DEADLINE_S / 2) == (LOCAL, True)
        submitter.move_clock(30)
        assert submitter.submit().partition == DIVERTED


def test_a_restarted_sidecar_is_met_by_the_very_next_submission(path: Path, submitter: Submitter) -> None:
    for _ in range(3):
        with router(path):
            assert submitter.submit().partition == DIVERTED


def test_a_killed_sidecar_leaves_jobs_local(path: Path, submitter: Submitter) -> None:
    with router(path) as process:
        assert submitter.submit().partition == DIVERTED
        process.kill()
        process.wait(timeout=10)
        assert submitter.submit().partition == LOCAL


def test_connections_that_the_server_ends_by_goaway_lose_no_answer(path: Path) -> None:
    ending = router(path, "grpc.max_connection_age_ms=20", "grpc.max_connection_age_grace_ms=20")
    # An answer that is late, because the machine is busy, is not lost.
    with ending, closing(Submitter(path, deadline_s=10.0)) as submitter:
        submissions = [submitter.submit() for _ in range(600)]
    assert {each.partition for each in submissions} == {DIVERTED}
    assert statistics.median(each.took_s for each in submissions) < DEADLINE_S


@pytest.mark.parametrize("step_s", [-3600, -0.2, 3600])
def test_a_clock_that_is_set_costs_no_more_than_a_pause(path: Path, submitter: Submitter, step_s: float) -> None:
    with router(path):
        assert submitter.submit().partition == DIVERTED
        submitter.move_clock(step_s)
        assert submitter.submit().partition == DIVERTED
        submitter.submit("slow")
        submitter.move_clock(step_s)
        submitter.move_clock(31)
        assert submitter.submit().partition == DIVERTED


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def _says(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        while connection.recv(65536):
            pass

    return serve


def _drips(connection: socket.socket) -> None:
    """Send PINGs for as long as anybody listens, one every few milliseconds, but never an answer."""
    while True:
        connection.sendall(_frame(6, 0, 0, bytes(8)))
        time.sleep(0.005)


def _floods(connection: socket.socket) -> None:
    while True:
        connection.sendall(_frame(6, 1, 0, bytes(8)) * 4000)


def _closes(connection: socket.socket) -> None:
    connection.recv(65536)


@pytest.mark.parametrize(
    "serve",
    [
        _says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        _says(os.urandom(5000)),
        _says(b"\0" * 5000),
        _says(b"\xff" * 5000),
        _says(_frame(4, 0, 0, b"") + _frame(3, 0, 1, b"\0\0\0\x02")),
        _says(_frame(7, 0, 0, bytes(8))),
        _says(_frame(4, 0, 0, b"\0\x04\0\0\0\0")),
        _drips,
        _floods,
        _closes,
    ],
    ids=["http/1", "random", "zeros", "ones", "reset", "goaway", "no window", "pings for ever", "flood", "close"],
)
def test_a_peer_that_misbehaves_leaves_jobs_local_and_in_time(
    path: Path, submitter: Submitter, serve: Callable[[socket.socket], None]
) -> None:
    with raw_peer(path, serve):
        submissions = [submitter.submit() for _ in range(6)]
        submissions.append(submitter.submit("large"))
    assert {(each.code, each.partition) for each in submissions} == {(0, LOCAL)}
    assert sum("no answer from the sidecar" in each.logged for each in submissions) == 1
    assert not any("defect" in each.logged for each in submissions)


def _field(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def test_the_second_try_on_a_new_connection_has_only_what_the_first_left(path: Path, submitter: Submitter) -> None:
    connections = []

    def answer_once_then_break_late_then_hang(connection: socket.socket) -> None:
        connections.append(connection)
        connection.recv(65536)
        if len(connections) == 1:
            verdict_local = b"\0\0\0\0\x02\x08\x01"
            connection.sendall(_frame(0, 0, 1, verdict_local) + _frame(1, 5, 1, _field(b"grpc-status", b"0")))
            connection.recv(65536)
            time.sleep(DEADLINE_S * 0.8)
        else:
            connection.recv(65536)

    with raw_peer(path, answer_once_then_break_late_then_hang):
        assert submitter.submit().logged == ""
        assert "deadline" in submitter.submit().logged
        submitter.close()
    assert len(connections) == 2


def test_failures_leave_no_descriptor_behind(path: Path, submitter: Submitter) -> None:
    submitter.submit()
    before = submitter.open_descriptors()
    with raw_peer(path, _closes):
        for _ in range(50):
            submitter.move_clock(30)
            submitter.submit()
    assert submitter.open_descriptors() == before


def test_a_backlog_that_is_full_leaves_the_job_local_in_time(path: Path, submitter: Submitter) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))
        assert submitter.submit().partition == LOCAL
