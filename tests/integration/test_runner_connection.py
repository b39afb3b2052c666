"""The runner and its agent: breaks, restarts, fencing, the lease. Not a byte lost, none twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import trustme

from overspill_runner.runner import KILLED_ALONE_S
from tests.integration.runner_agent import running, server_tls, wait_until, work_in

#: Bytes that look different everywhere, so that a loss or a repetition cannot hide.
COUNT = "#!/usr/bin/python3 -IS\nimport sys\nfor i in range({lines}):\n    print('%019d' % i)\n"


def counted(lines: int) -> bytes:
    return b"".join(b"%019d\n" % i for i in range(lines))


def test_100_mb_in_one_burst_arrive_whole(tmp_path: Path) -> None:
    lines = 5_000_000
    with running(work_in(tmp_path, COUNT.format(lines=lines)), tmp_path / "own") as (agent, runner):
        assert runner.wait(60) == 0, runner.log
    assert len(agent.stdout) == 20 * lines
    assert hashlib.sha256(agent.stdout).digest() == hashlib.sha256(counted(lines)).digest()


@pytest.mark.parametrize("seed", range(3))
def test_broken_connections_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    lines = 1_000_000
    goals = [random.Random(f"{seed} {i}").randrange(20 * lines) for i in range(5)]  # noqa: S311 (no secret)
    with running(work_in(tmp_path, COUNT.format(lines=lines)), tmp_path / "own") as (agent, runner):
        for goal in sorted(goals):
            agent.wait_for_output(goal)
            agent.break_connections()
        assert runner.wait(60) == 0, runner.log
    assert agent.stdout == counted(lines)
    assert [report["kind"] for report in agent.reports] == ["started", "ended"]
    assert agent.gaps == 0


def test_agent_that_restarts_in_mid_stream_gets_everything(tmp_path: Path) -> None:
    script = "for i in $(seq 1000); do echo line $i; sleep 0.002; done; exit 4"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        for goal in (1000, 5000):
            agent.wait_for_output(goal)
            agent.stop()
            threading.Event().wait(0.3)  # the script goes on meanwhile
            agent.start()
        assert runner.wait() == 0, runner.log
    assert agent.stdout.decode().splitlines() == [f"line {i}" for i in range(1, 1001)]
    assert agent.reports[-1]["exit_code"] == 4


def test_a_script_goes_on_writing_while_the_agent_is_away_and_nothing_is_lost(tmp_path: Path) -> None:
    lines, away_s = 5_000_000, 40
    script = "#!/usr/bin/python3 -IS\nimport os, time\n"
    script += f"while not os.path.exists('{tmp_path}/go'): time.sleep(0.02)\n"
    script += f"for i in range({lines}): print('%019d' % i)\nprint(end='', flush=True)\nopen('{tmp_path}/written', 'w')"
    with running(work_in(tmp_path, script, lease_s=90), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: agent.reports_of("started"))
        agent.stop()
        left_at = time.monotonic()
        (tmp_path / "go").touch()
        wait_until((tmp_path / "written").exists, away_s)
        assert memory_mib(runner.process.pid) < 64
        assert not (tmp_path / "own" / "spool").exists()
        threading.Event().wait(away_s - (time.monotonic() - left_at))
        agent.start()
        assert runner.wait(60) == 0, runner.log
    assert hashlib.sha256(agent.stdout).digest() == hashlib.sha256(counted(lines)).digest()
    assert agent.gaps == 0


def test_a_script_waits_when_the_spool_is_full_too(tmp_path: Path) -> None:
    script = f"head -c 60000000 /dev/zero; touch {tmp_path}/written"
    with running(work_in(tmp_path, script, spool_bytes=20_000_000), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: agent.reports_of("started"))
        agent.stop()
        wait_until(lambda: spooled_bytes(runner.process.pid) > 19_000_000)
        threading.Event().wait(0.5)
        assert not (tmp_path / "written").exists()
        assert spooled_bytes(runner.process.pid) <= 20_000_000
        agent.start()
        assert runner.wait() == 0
    assert agent.stdout == bytes(60_000_000)


def spooled_bytes(pid: int) -> int:
    """Return how large the spool is, which has no name any more."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            if "/own/spool" in str(entry.readlink()):
                return entry.stat().st_size
    return 0


def test_last_line_before_a_long_silence_survives_a_break(tmp_path: Path) -> None:
    """Nothing is written after the break that could make it noticed."""
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo the last line; exec sleep 60"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: agent.reports_of("started"))
        agent.stop()
        (tmp_path / "go").touch()
        threading.Event().wait(0.3)
        agent.start()
        agent.wait_until(lambda: agent.stdout == b"the last line\n")
        assert runner.process.poll() is None


def test_script_waits_while_the_agent_holds_nothing(tmp_path: Path) -> None:
    script = f"head -c 40000000 /dev/zero; touch {tmp_path}/written"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.set(are_acknowledgements_held=True)
        agent.wait_for_output(16_000_000)
        threading.Event().wait(0.5)
        assert len(agent.stdout) < 18_000_000
        assert not (tmp_path / "written").exists()
        assert memory_mib(runner.process.pid) < 64
        agent.set(are_acknowledgements_held=False)
        assert runner.wait() == 0
    assert len(agent.stdout) == 40_000_000


def test_tiny_writes_do_not_fill_the_memory(tmp_path: Path) -> None:
    script = "#!/usr/bin/python3 -ISu\nimport os, time\nfor i in range(50000):\n    os.write(1, b'x'); time.sleep(0)\n"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.set(are_acknowledgements_held=True)
        agent.wait_until(lambda: agent.reports_of("ended"))
        assert memory_mib(runner.process.pid) < 64
        agent.set(are_acknowledgements_held=False)
        assert runner.wait() == 0
    assert agent.stdout == b"x" * 50000


def memory_mib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) >> 10


def process_of_script(directory: Path) -> Path:
    """Wait until the script has written its PID to `pid`; return its directory in /proc."""
    written = directory / "pid"
    wait_until(lambda: written.exists() and written.read_text().endswith("\n"))
    return Path("/proc", written.read_text().strip())


def test_lease_that_ends_kills_the_script(tmp_path: Path) -> None:
    work = work_in(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60", lease_s=1)
    with running(work, tmp_path / "own") as (agent, runner):
        process = process_of_script(tmp_path)
        agent.stop()
        wait_until(lambda: not process.exists(), 5)
        agent.start()
        assert runner.wait() == 4
    assert agent.reports[-1]["lease_lost"] is True
    assert agent.reports[-1]["signal"] == signal.SIGKILL


def test_a_kill_from_elsewhere_is_reported_once_it_is_known_to_spare_the_runner(tmp_path: Path) -> None:
    with running(work_in(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60"), tmp_path / "own") as (agent, runner):
        process = process_of_script(tmp_path)
        killed_at = time.monotonic()
        os.kill(int(process.name), signal.SIGKILL)
        assert runner.wait() == 0
        assert time.monotonic() - killed_at >= KILLED_ALONE_S
    assert agent.reports[-1]["signal"] == signal.SIGKILL


def test_lease_lives_by_keepalives_alone(tmp_path: Path) -> None:
    with running(work_in(tmp_path, "sleep 3", lease_s=1), tmp_path / "own") as (agent, runner):
        assert runner.wait() == 0
    assert agent.reports[-1]["lease_lost"] is False


def test_fenced_attempt_kills_its_script_and_ends(tmp_path: Path) -> None:
    with running(work_in(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60"), tmp_path / "own") as (agent, runner):
        process = process_of_script(tmp_path)
        agent.set(is_fenced=True)
        agent.break_connections()
        assert runner.wait() == 3
        assert not process.exists()


def test_time_limit_is_enforced_after_slurms(tmp_path: Path) -> None:
    script = "trap 'echo term' TERM; while :; do sleep 0.05; done"
    work = work_in(tmp_path, script, time_limit_s=1, time_limit_grace_s=0, kill_wait_s=1)
    with running(work, tmp_path / "own") as (agent, runner):
        assert runner.wait() == 0
    assert b"term" in agent.stdout
    assert agent.reports[-1]["timed_out"] is True
    assert agent.reports[-1]["signal"] == signal.SIGKILL


def test_inputs_that_are_not_complete_are_asked_for_again(tmp_path: Path) -> None:
    with running(work_in(tmp_path, "echo ran"), tmp_path / "own", spec_status=425) as (agent, runner):
        threading.Event().wait(1.2)
        assert agent.reports == []
        agent.set(spec_status=200)
        assert runner.wait() == 0
    assert agent.stdout == b"ran\n"


def test_a_server_that_is_not_the_sites_gets_no_token(tmp_path: Path) -> None:
    with running(work_in(tmp_path, "echo ran"), tmp_path / "own", tls=server_tls(trustme.CA())) as (agent, runner):
        wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in runner.log)
        assert agent.requests == 0
