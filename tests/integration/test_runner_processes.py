"""The runner and the processes of its script: signals, leftovers, orphans, time."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.runner_agent import RunnerAgent, RunnerProcess, running, wait_until, work_in

#: A tree that a plain killpg would miss: a session of its own, and an orphan by a double fork, all deaf to TERM.
TREE = """
trap '' TERM
setsid sh -c 'trap "" TERM; echo session $$; while :; do sleep 1; done' &
(sh -c 'trap "" TERM; echo orphan $$; while :; do sleep 1; done' &)
echo shell $$
"""


def pids_in(agent: RunnerAgent, count: int) -> list[int]:
    """Return the process ids at the ends of so many lines of output."""
    agent.wait_until(lambda: agent.stdout.count(b"\n") >= count)
    return [int(line.split()[-1]) for line in agent.stdout.splitlines()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_dead(pids: list[int]) -> None:
    assert [pid for pid in pids if is_alive(pid)] == []


NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.mark.parametrize("prefix", [[], NAMESPACE], ids=["subreaper", "first of its namespace"])
def test_what_the_script_leaves_behind_is_killed(tmp_path: Path, prefix: list[str]) -> None:
    marker = f"9{os.getpid()}"
    script = TREE + f"sleep {marker} & (setsid sleep {marker} &) ; sleep 0.3; exit 5"
    with running(work_in(tmp_path, script), tmp_path / "own", prefix) as (agent, runner):
        assert runner.wait() == 0, runner.log
    assert agent.reports[-1]["exit_code"] == 5
    assert agent.stdout.count(b"\n") == 3
    assert subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True, check=False).stdout == b""


def test_a_process_substitution_may_finish_its_last_bytes(tmp_path: Path) -> None:
    script = "echo data | tee >(read line; sleep 0.05; echo got $line) >/dev/null"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        assert runner.wait() == 0
    assert agent.stdout == b"got data\n"


def test_stop_kills_a_tree_that_ignores_term(tmp_path: Path) -> None:
    with running(work_in(tmp_path, TREE + "while :; do sleep 1; done"), tmp_path / "own") as (agent, runner):
        pids = pids_in(agent, 3)
        agent.set(is_stopping=True)
        assert runner.wait() == 0
        assert_dead(pids)
    assert agent.reports[-1]["signal"] == signal.SIGKILL


def test_stop_before_the_script_started_keeps_it_from_starting(tmp_path: Path) -> None:
    work = work_in(tmp_path, f"touch {tmp_path}/ran")
    with running(work, tmp_path / "own", spec_status=425, is_stopping=True) as (agent, runner):
        assert runner.wait() == 0
    assert not (tmp_path / "ran").exists()
    assert [report["kind"] for report in agent.reports] == ["ended"]
    assert agent.reports[0]["error"]


@pytest.mark.parametrize(("scope", "reached"), [("shell", {b"shell"}), ("tree", {b"shell", b"child"})])
def test_signal_reaches_its_scope_only(tmp_path: Path, scope: str, reached: set[bytes]) -> None:
    script = """
trap 'echo shell' USR1; trap 'wait; exit 0' USR2
bash -c 'trap "echo child" USR1; trap "exit 0" USR2; echo ready; while :; do sleep 0.05; done' &
while :; do sleep 0.05; done
"""
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: b"ready" in agent.stdout)
        agent.signal(signal.SIGUSR1, scope)
        agent.wait_until(lambda: reached <= set(agent.stdout.split()))
        agent.signal(signal.SIGUSR2)
        assert runner.wait() == 0
    assert set(agent.stdout.split()) - {b"ready"} == reached
    assert [report["seq"] for report in agent.reports_of("signalled")] == [1, 2]


def test_a_signal_that_is_told_again_is_delivered_once(tmp_path: Path) -> None:
    script = "n=0; trap 'n=$((n+1)); echo got $n' USR1; trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: b"ready" in agent.stdout)
        agent.signal(signal.SIGUSR1, "shell")
        agent.wait_until(lambda: b"got 1" in agent.stdout)
        del agent.reports[1:]  # the agent forgets, as if the report had been lost, and tells the signal again
        agent.break_connections()
        agent.signal(signal.SIGTERM, "shell")
        wait_until(lambda: runner.process.poll() is not None or agent.gaps)
    assert b"got 2" not in agent.stdout


def test_a_warning_that_comes_before_the_scripts_handler_waits_for_it_and_holds_up_no_cancel(tmp_path: Path) -> None:
    script = "echo ready; until [ -e go ]; do sleep 0.05; done; trap 'echo warned' USR1; while :; do sleep 0.05; done"
    work = work_in(tmp_path, script)
    with running(work, tmp_path / "own") as (agent, runner):
        agent.signal(signal.SIGUSR1, "shell")
        agent.signal(signal.SIGCONT)
        agent.wait_until(lambda: agent.reports_of("signalled"))
        assert [report["seq"] for report in agent.reports_of("signalled")] == [2]
        Path(os.fsdecode(work.cwd), "go").touch()
        agent.wait_until(lambda: b"warned" in agent.stdout)
        agent.signal(signal.SIGTERM)
        assert runner.wait() == 0
    assert agent.stdout.splitlines() == [b"ready", b"warned"]


def test_a_warning_that_the_script_never_heeds_ends_it(tmp_path: Path) -> None:
    with running(work_in(tmp_path, "sleep 1000"), tmp_path / "own") as (agent, runner):
        agent.signal(signal.SIGUSR1, "shell")
        assert runner.wait() == 0
    assert agent.reports[-1]["signal"] == signal.SIGUSR1


def test_stopped_tree_stands_still_until_it_is_continued(tmp_path: Path) -> None:
    script = "while :; do date +%N; sleep 0.01; done & while :; do date +%N; sleep 0.01; done"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: agent.stdout)
        agent.signal(signal.SIGSTOP)
        agent.wait_until(lambda: agent.reports_of("signalled"))
        wait_until(lambda: all(state == "T" for state in states_below(runner)))
        agent.signal(signal.SIGCONT)
        seen = len(agent.stdout)
        agent.wait_until(lambda: len(agent.stdout) > seen + 100)
        agent.signal(signal.SIGTERM)
        assert runner.wait() == 0
    assert agent.reports[-1]["signal"] == signal.SIGTERM


def states_below(runner: RunnerProcess) -> list[str]:
    listing = subprocess.run(
        ["ps", "-o", "stat=", "--ppid", str(runner.process.pid)], capture_output=True, text=True, check=True
    )
    return [line.strip()[0] for line in listing.stdout.splitlines()]


def test_term_to_the_runner_is_term_to_the_tree(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: b"ready" in agent.stdout)
        runner.process.terminate()
        assert runner.wait() == 0
    assert agent.stdout.endswith(b"bye\n")
    assert agent.reports[-1]["exit_code"] == 9


def test_orphans_are_reaped_while_the_script_runs(tmp_path: Path) -> None:
    script = "for i in $(seq 20); do (true &); done; echo ready; read -t 30 < <(sleep 30)"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: b"ready" in agent.stdout)
        wait_until(lambda: "Z" not in states_below(runner))
        agent.set(is_stopping=True)
        assert runner.wait() == 0


def test_a_process_that_is_none_of_the_runs_cannot_hold_the_end_up(tmp_path: Path) -> None:
    """Its end of the pipe stays open: only something handed to a stranger can do that."""
    script = f"echo $$ > {tmp_path}/pid; echo out; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    with running(work_in(tmp_path, script), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: b"out" in agent.stdout)
        pid = int((tmp_path / "pid").read_text())
        with Path(f"/proc/{pid}/fd/1").open("wb"):
            (tmp_path / "go").touch()
            assert runner.wait() == 0
    assert agent.reports[-1]["exit_code"] == 0
    assert agent.stdout == b"out\n"


def test_runner_sleeps_while_the_script_does(tmp_path: Path) -> None:
    with running(work_in(tmp_path, "echo ready; exec sleep 60"), tmp_path / "own") as (agent, runner):
        agent.wait_until(lambda: b"ready" in agent.stdout)
        agent.set(keepalive_s=10.0)
        before, switches = cpu_ticks(runner), context_switches(runner)
        with pytest.raises(subprocess.TimeoutExpired):
            runner.wait(3.0)
        assert cpu_ticks(runner) - before <= 1
        assert context_switches(runner) - switches < 20


def cpu_ticks(runner: RunnerProcess) -> int:
    user, system = Path(f"/proc/{runner.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def context_switches(runner: RunnerProcess) -> int:
    statuses = Path(f"/proc/{runner.process.pid}/task").glob("*/status")
    lines = [line for status in statuses for line in status.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
