"""What the real proxy tells the relay of the job that it stands for, and how it ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from overspill.proxy_framing import OFFSET, FrameType
from tests.integration.proxy_relay import proxy_rig


def test_argv_and_environment_arrive_byte_for_byte(tmp_path: Path) -> None:
    arguments = [b"", b"two words", b"new\nline", b"\xff\xfe", b"-I", b""]
    environment = {b"SLURM_JOB_ID": b"42", b"MULTI": b"a\nb", b"ODD": b"\xff\xfe=\x80", b"EMPTY": b"", b"LANG": b"C"}
    with proxy_rig(tmp_path) as rig:
        rig.start(*arguments, environment=environment)
        peer = rig.accept()
    assert peer.argv == [os.fsencode(rig.script_path), *arguments]
    assert peer.environment == [name + b"=" + value for name, value in environment.items()]
    assert peer.script == rig.script_path.read_bytes()
    assert peer.hello["slurm_job_id"] == 42


@pytest.mark.parametrize(("count", "told"), [(None, 0), (b"2", 2), (b"many", 0)])
def test_the_relay_is_told_which_attempt_of_the_job_this_is(tmp_path: Path, count: bytes | None, told: int) -> None:
    environment = {b"SLURM_JOB_ID": b"42"} | ({} if count is None else {b"SLURM_RESTART_COUNT": count})
    with proxy_rig(tmp_path) as rig:
        rig.start(environment=environment)
        assert rig.accept().hello["restart_count"] == told


def test_the_relay_is_told_whether_another_may_have_submitted_the_job(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start()
        peer = rig.accept()
        assert peer.hello["was_handed_over"] is False
        peer.close()
        assert rig.accept().hello["was_handed_over"] is True


def test_environment_is_what_slurmstepd_would_have_left_of_it(tmp_path: Path) -> None:
    environment = {
        b"SLURM_JOB_ID": b"7",
        b"SLURM_RLIMIT_NOFILE": b"777",
        b"SLURM_RLIMIT_AS": b"18446744073709551615",
        b"OVERSPILL_KEPT_LD_PRELOAD": b"/home/alice/lib.so",
        b"SLURM_RLIMIT_OF_THE_USER": b"kept",
    }
    with proxy_rig(tmp_path) as rig:
        rig.start(environment=environment)
        peer = rig.accept()
    assert peer.environment == [
        b"SLURM_JOB_ID=7",
        b"LD_PRELOAD=/home/alice/lib.so",
        b"SLURM_RLIMIT_OF_THE_USER=kept",
    ]
    assert peer.hello["rlimits"]["NOFILE"] == [777, resource.getrlimit(resource.RLIMIT_NOFILE)[1]]
    assert peer.hello["rlimits"]["AS"] == [-1, -1]


def test_a_long_script_and_environment_fit(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.script_path.write_bytes(b"#!/bin/sh\n" + os.urandom(4 << 20))
        environment = {b"V%d" % i: b"x" * 100_000 for i in range(15)}
        rig.start(environment=environment)
        peer = rig.accept()
        assert peer.script == rig.script_path.read_bytes()
        assert len(peer.environment) == 15


def test_hello_describes_the_surroundings(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start(command=["sh", "-c", 'umask 027; exec "$@"', "sh"])
        apart = rig.accept().hello
        rig.kill(signal.SIGKILL)
        rig.wait()
        rig.start(is_joined=True)
        joined = rig.accept().hello
    assert (apart["cwd"], apart["umask"], apart["has_stdin"]) == (os.fsencode(tmp_path), 0o027, False)
    assert (apart["is_output_joined"], joined["is_output_joined"]) == (False, True)
    assert (apart["stdout"], apart["stderr"]) == (0, 0)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_standard_input_is_sent_from_where_it_is_wanted(tmp_path: Path, kind: str) -> None:
    content = os.urandom(700_000)
    (tmp_path / "in").write_bytes(content)
    with proxy_rig(tmp_path) as rig, (tmp_path / "in").open("rb") as file:
        if kind == "file":
            rig.start(stdin=file)
        else:
            cat = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
            assert cat.stdout is not None
            with cat.stdout as pipe:
                rig.start(stdin=pipe)
        peer = rig.accept()
        assert peer.hello["has_stdin"] is True
        for start in (0, 300_000):  # the second time to a new relay, which knows less than was sent
            peer.send(FrameType.STDIN_FROM, OFFSET.pack(start))
            received = bytearray()
            while True:
                payload = peer.take(FrameType.STDIN)
                assert OFFSET.unpack_from(payload)[0] == start + len(received)
                if len(payload) == OFFSET.size:
                    break
                received += payload[OFFSET.size :]
            assert received == content[start:]
            peer.close()
            peer = rig.accept()
        if kind == "pipe":
            assert cat.wait() == 0


def test_standard_input_waits_until_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"input")
    with proxy_rig(tmp_path) as rig, (tmp_path / "in").open("rb") as file:
        rig.start(stdin=file)
        peer = rig.accept()
        rig.kill(signal.SIGUSR1)
        assert peer.take_signal() == (1, signal.SIGUSR1)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_code_is_the_scripts(tmp_path: Path, code: int) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start()
        rig.accept().end(exit_code=code)
        assert rig.wait() == code
    assert rig.stdout + rig.stderr == b""


ENDING_SIGNALS = [
    number
    for number in sorted(signal.valid_signals())
    if number not in {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    and number not in {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
]


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_proxy_dies_by_the_scripts_signal(tmp_path: Path, number: int) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start(command=["prlimit", "--core=unlimited"])
        rig.accept().end(signal=int(number))
        assert rig.wait() == -number
    assert rig.stdout + rig.stderr == b""
    assert {path.name for path in tmp_path.iterdir()} <= {"slurm_script", "out", "err"}


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT, 99, 32])
def test_a_signal_that_ends_nobody_becomes_an_exit_code(tmp_path: Path, number: int) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start()
        rig.accept().end(signal=int(number))
        assert rig.wait() in {128 + number, -number}


def test_message_is_one_line_on_standard_error(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start()
        rig.accept().end(exit_code=1, message="the site lost\nthe run")
        assert rig.wait() == 1
    assert (rig.stdout, rig.stderr) == (b"", b"overspill: the site lost the run\n")


def test_end_that_is_followed_by_the_relays_exit_is_heard(tmp_path: Path) -> None:
    """The relay closes with the proxy's acknowledgements unread: sending fails, what was received still counts."""
    with proxy_rig(tmp_path) as rig:
        rig.start()
        peer = rig.accept()
        for i in range(100):
            peer.output(b"x" * 1_000_000, i * 1_000_000)
        peer.end(exit_code=3)
        peer.close()
        assert rig.wait() == 3
    assert len(rig.stdout) == 100_000_000


def test_proxy_that_fails_says_so_in_one_line(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.script_path.unlink()
        rig.start()
        assert rig.wait() == 70
    assert rig.stderr.startswith(b"overspill: defect: ")
    assert rig.stderr.count(b"\n") == 1
