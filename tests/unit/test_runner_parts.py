"""The runner's parts without an agent."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from overspill.runner_protocol import FRAME_HEADER, RunnerFrame
from overspill_runner.runner import (
    DEVICE_VARIABLES,
    ENTRY_BYTES,
    STDERR,
    STDOUT,
    Clock,
    Environment,
    SendLog,
    SpoolFile,
    descendants,
    exec_complaint,
    lower,
    oom_kills_file,
    parse_events,
    with_devices,
)


def frames_in(data: bytes) -> list[tuple[RunnerFrame, int, bytes]]:
    """Return the frames of an upload's body."""
    found = []
    while data:
        kind, length, number = FRAME_HEADER.unpack_from(data)
        end = FRAME_HEADER.size + length
        found.append((RunnerFrame(kind), number, data[FRAME_HEADER.size : end]))
        data = data[end:]
    return found


class LogAndAgent(RuleBasedStateMachine):
    """A send log and an agent whose connection breaks at any moment, and whose acknowledgements come late."""

    def __init__(self) -> None:
        super().__init__()
        self.log = SendLog(window_bytes=2000)
        self.directory = tempfile.TemporaryDirectory()
        self.log.spool_to(SpoolFile(self.directory.name, 1000))
        self.written = {STDOUT: b"", STDERR: b""}
        self.held = {STDOUT: b"", STDERR: b""}
        self.reports = 0
        self.held_reports = 0

    @rule(is_connected=st.booleans())
    def connect(self, *, is_connected: bool) -> None:
        self.log.set_connected(is_connected)

    @rule(kind=st.sampled_from([STDOUT, STDERR]), data=st.binary(min_size=1, max_size=50))
    def write(self, kind: int, data: bytes) -> None:
        if self.log.try_to_add(kind, data):
            self.written[kind] += data

    @rule()
    def report(self) -> None:
        self.log.add_report(kind="signalled", seq=1)
        self.reports += 1

    @rule(most_bytes=st.integers(1, 300), is_lost=st.booleans())
    def send(self, most_bytes: int, *, is_lost: bool) -> None:
        """Send some; a connection that breaks loses it and begins anew."""
        data = self.log.take(most_bytes)
        if is_lost:
            self.log.rewind()
            return
        for kind, number, payload in frames_in(data):
            self.take(kind, number, payload)

    def take(self, kind: RunnerFrame, number: int, payload: bytes) -> None:
        """Take a frame as an agent does: what is there already is dropped, a gap is an error."""
        if kind is RunnerFrame.REPORT:
            assert number <= self.held_reports + 1, "a report is missing"
            self.held_reports = max(self.held_reports, number)
        else:
            held = self.held[kind]
            assert number <= len(held), "output is missing"
            self.held[kind] = held + payload[len(held) - number :]

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share: float) -> None:
        """Acknowledge any part of what is held, frames cut anywhere."""
        stdout, stderr = (int(len(self.held[kind]) * share) for kind in (STDOUT, STDERR))
        self.log.acknowledge(stdout, stderr, int(self.held_reports * share))

    @rule()
    def finish_sending(self) -> None:
        while data := self.log.take(10_000):
            for frame in frames_in(data):
                self.take(*frame)
        assert self.held == self.written
        assert self.held_reports == self.reports

    @invariant()
    def agent_holds_a_beginning_of_what_was_written(self) -> None:
        assert all(self.written[kind].startswith(held) for kind, held in self.held.items())

    def teardown(self) -> None:
        self.finish_sending()
        self.directory.cleanup()
        os.close(self.log.wake_fd)
        os.close(self.log._wake_write_fd)  # noqa: SLF001 (a process has one log for life: it has no close)


TestLogAndAgent = LogAndAgent.TestCase
TestLogAndAgent.settings = settings(max_examples=60, deadline=None)


def test_log_says_when_it_has_something_again() -> None:
    log = SendLog()
    assert log.take(100) == b""
    log.add_output(STDOUT, b"x")
    assert os.read(log.wake_fd, 10) == b"\0"
    log.take(100)
    log.add_output(STDOUT, b"y")  # nobody sleeps: taken without being told
    with pytest.raises(BlockingIOError):
        os.read(log.wake_fd, 10)


def test_last_report_tells_how_much_output_there_was() -> None:
    log = SendLog()
    log.add_output(STDERR, b"12345")
    log.add_last_report(kind="ended", exit_code=0)
    assert log.is_complete
    assert not log.add_output(STDOUT, b"too late")
    assert b'"stderr": 5' in frames_in(log.take(1000))[-1][2]


def test_what_memory_has_no_room_for_is_spooled_while_the_agent_is_away_and_only_then(tmp_path: Path) -> None:
    log = SendLog(window_bytes=ENTRY_BYTES + 6)
    log.spool_to(SpoolFile(str(tmp_path), 10))
    assert log.try_to_add(STDOUT, b"memory")
    log.set_connected(True)
    assert not log.try_to_add(STDOUT, b"spool")
    log.set_connected(False)
    assert log.try_to_add(STDOUT, b"spool")
    assert log.try_to_add(STDOUT, b"12345")
    assert not log.try_to_add(STDOUT, b"x")
    assert [payload for _, _, payload in frames_in(log.take(1000))] == [b"memory", b"spool12345"]
    log.acknowledge(16, 0, 0)
    assert log.try_to_add(STDOUT, b"memory")
    assert log.try_to_add(STDOUT, b"the spool.")  # from its beginning again
    assert [(number, payload) for _, number, payload in frames_in(log.take(1000))] == [
        (16, b"memory"),
        (22, b"the spool."),
    ]


def test_a_disk_that_takes_nothing_leaves_the_output_with_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    log = SendLog(window_bytes=1)
    log.spool_to(SpoolFile("/nonexistent", 1000))
    assert log.try_to_add(STDOUT, b"memory")
    assert not log.try_to_add(STDOUT, b"spool")
    assert "No such file" in capsys.readouterr().err


def test_small_entries_weigh_what_they_cost() -> None:
    log = SendLog(window_bytes=10 * ENTRY_BYTES)
    for _ in range(10):
        log.add_output(STDOUT, b"x")
    assert log.is_full


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_events_are_read_as_browsers_read_them(newline: str) -> None:
    lines = [
        ": comment",
        "event: hello",
        'data: {"stdout":',
        "data:  1}",
        "",
        "id: 4",
        "event:stop",
        "",
        "",
        "data: {}",
        "",
    ]
    assert list(parse_events(io.BytesIO(newline.join([*lines, ""]).encode()))) == [
        ("hello", {"stdout": 1}),
        ("stop", {}),
    ]


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary())))
def test_environment_keeps_order_and_doubles(pairs: list[tuple[bytes, bytes]]) -> None:
    pairs = [(name.replace(b"=", b"_"), value) for name, value in pairs]
    environment = Environment([name + b"=" + value for name, value in pairs])
    assert list(zip(environment.keys(), environment.values(), strict=True)) == pairs


def test_environment_leaves_out_what_is_no_variable() -> None:
    assert Environment([b"=x", b"no equals sign", b"A=1"]).keys() == [b"A"]


@pytest.mark.parametrize(("limit", "other", "lowest"), [(1, 2, 1), (2, 1, 1), (-1, 5, 5), (5, -1, 5), (-1, -1, -1)])
def test_lower_of_two_limits(limit: int, other: int, lowest: int) -> None:
    assert lower(limit, other) == lowest


def test_descendants_are_found_across_sessions() -> None:
    script = "setsid sh -c 'sleep 60 & echo $!; wait' & wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        found = descendants(os.getpid())
        assert {process.pid, grandchild} <= set(found)
        for pid in found:
            if pid == grandchild or pid in descendants(process.pid):
                os.kill(pid, 9)
        process.kill()


def test_interpreter_is_named_as_slurmstepd_names_it() -> None:
    error = FileNotFoundError(2, "No such file or directory")
    assert exec_complaint(sys.executable.encode(), error).startswith(b"execve(): " + sys.executable.encode())


def test_suspended_time_does_not_count_against_the_limit() -> None:
    clock = Clock(0.0)
    clock.start(100, 60, 0.0)
    assert clock.limit_at == 160.0
    clock.suspend(50.0)
    assert clock.limit_at is None
    clock.suspend(60.0)
    clock.resume(80.0)
    clock.resume(90.0)
    assert clock.limit_at == 190.0


def test_a_changed_limit_counts_from_the_same_start_be_it_told_before_or_after() -> None:
    early, late = Clock(0.0), Clock(0.0)
    early.set_limit(200)
    for clock in (early, late):
        clock.start(100, 60, 5.0)
    late.set_limit(200)
    assert early.limit_at == late.limit_at == 265.0
    late.set_limit(0)
    assert late.limit_at is None


def test_no_limit_is_none() -> None:
    clock = Clock(0.0)
    clock.start(0, 60, 0.0)
    assert clock.limit_at is None


@pytest.mark.parametrize(
    ("cgroups", "mounts", "path"),
    [
        (
            "4:memory:/system.slice/agent\n0::/\n",
            "31 22 0:26 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory\n",
            "/sys/fs/cgroup/memory/system.slice/agent/memory.oom_control",
        ),
        (  # a container's: its own cgroup is what is mounted
            "4:memory:/docker/0123\n",
            "31 22 0:26 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            "/sys/fs/cgroup/memory//memory.oom_control",
        ),
        (
            "0::/overspill-r-1\n",
            "30 22 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
            "/sys/fs/cgroup/overspill-r-1/memory.events",
        ),
        ("0::/\n", "30 22 0:25 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup//memory.events"),
        ("4:memory:/x\n", "22 1 0:20 / /sys rw - sysfs sysfs rw\n", ""),
    ],
)
def test_kills_for_want_of_memory_are_counted_in_the_own_cgroup(cgroups: str, mounts: str, path: str) -> None:
    assert oom_kills_file(cgroups, mounts) == path


def test_devices_that_the_site_names_take_the_place_of_the_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = [b"A=1", b"CUDA_VISIBLE_DEVICES=0,1,2", b"B=2"]
    for name in DEVICE_VARIABLES:
        monkeypatch.delenv(name.decode(), raising=False)
    assert with_devices(environment) == environment
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5")
    assert with_devices(environment) == [b"A=1", b"B=2", b"CUDA_VISIBLE_DEVICES=GPU-5"]


@pytest.mark.parametrize("has_gpus", [True, False])
def test_gpus_of_others_are_hidden_by_a_variable_only_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, has_gpus: bool
) -> None:
    driver = tmp_path / "driver"
    if has_gpus:
        driver.touch()
    monkeypatch.setattr("overspill_runner.runner.GPU_DRIVERS", (str(driver),))
    monkeypatch.setenv("GPU_DEVICE_ORDINAL", "10000")
    assert with_devices([b"A=1"]) == [b"A=1", *([b"GPU_DEVICE_ORDINAL=10000"] if has_gpus else [])]
