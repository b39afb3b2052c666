"""Who holds an attempt's lock lives; and what a run writes or claims cannot turn the agent against anybody else."""

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspill_agent.backends.attempt import claimed, kill, lock_path, seen
from overspill_agent.runs import Seen


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return lock_path(tmp_path, 1)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's run."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def hold(path: Path, status: bytes = b"") -> int:
    path.write_bytes(status)
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def test_an_attempt_is_claimed_once_while_it_is_held(path: Path) -> None:
    with claimed(path) as first:
        assert first is not None
        assert seen(path) is Seen.ALIVE
        with claimed(path) as second:
            assert second is None
    assert seen(path) is Seen.NOTHING


def test_an_attempt_that_has_run_is_never_claimed_again(path: Path) -> None:
    path.write_text('{ "child-pid": 5, "pid-namespace": 6 }\n')
    assert seen(path) is Seen.GONE
    with claimed(path) as claim:
        assert claim is None


def test_a_claim_is_whole_before_anything_starts_and_can_be_made_again(path: Path) -> None:
    with claimed(path) as first:
        assert first is not None
        claim = path.read_bytes()
        assert json.loads(claim) == {"boot-id": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    with claimed(path) as second:
        assert second is not None
        os.write(second.monitor, b'{ "child-pid": 5, "pid-namespace": 6 }\n')
    assert path.read_bytes() == claim + b'{ "child-pid": 5, "pid-namespace": 6 }\n'
    assert seen(path) is Seen.GONE


@pytest.mark.parametrize("claim", [b'{"boot-id": "c7b2cd15-0000-4000-8000-000000000000"}\n', b'{"boot'])
def test_an_attempt_that_was_claimed_before_the_machine_went_down_may_have_run(path: Path, claim: bytes) -> None:
    path.write_bytes(claim)
    assert seen(path) is Seen.GONE
    with claimed(path) as again:
        assert again is None


@pytest.mark.parametrize("end", ["monitor", "init"])
def test_either_end_alone_keeps_the_attempt_alive(path: Path, end: str) -> None:
    with claimed(path) as claim:
        assert claim is not None
        kept = os.dup(getattr(claim, end))
    assert seen(path) is Seen.ALIVE
    os.close(kept)
    assert seen(path) is Seen.NOTHING


def test_a_pid_that_is_another_processes_by_now_is_not_killed(path: Path, stranger: subprocess.Popen[bytes]) -> None:
    status = json.dumps({"child-pid": stranger.pid, "pid-namespace": 1}).encode()
    held = hold(path, status)
    assert not kill(path)
    os.close(held)
    assert stranger.poll() is None


def test_nothing_is_killed_for_an_attempt_that_nobody_holds(path: Path, stranger: subprocess.Popen[bytes]) -> None:
    namespace = Path(f"/proc/{stranger.pid}/ns/pid").stat().st_ino
    path.write_text(json.dumps({"child-pid": stranger.pid, "pid-namespace": namespace}))
    assert not kill(path)
    assert stranger.poll() is None


@pytest.mark.parametrize("status", [b"", b"{", b"{}\n", b'{"child-pid": 4194304, "pid-namespace": 1}\n'])
def test_a_status_that_is_not_there_yet_or_leads_nowhere_kills_nothing(path: Path, status: bytes) -> None:
    held = hold(path, status)
    assert not kill(path)
    os.close(held)


def test_the_process_that_the_status_names_is_killed(path: Path, stranger: subprocess.Popen[bytes]) -> None:
    namespace = Path(f"/proc/{stranger.pid}/ns/pid").stat().st_ino
    held = hold(path, json.dumps({"child-pid": stranger.pid, "pid-namespace": namespace}).encode())
    assert kill(path)
    os.close(held)
    assert stranger.wait(10) == -signal.SIGKILL
