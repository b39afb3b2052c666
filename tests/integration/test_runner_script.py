"""What a script finds around it under the runner: everything as slurmstepd would have made it."""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path

import pytest

from tests.integration.runner_agent import RunnerAgent, Work, running, work_in

SHOW = b"""#!/usr/bin/python3 -IS
import os, resource, sys
with open("/proc/self/environ", "rb") as file:
    sys.stdout.buffer.write(file.read())
"""


def run(work: Work, directory: Path) -> RunnerAgent:
    """Run some work to its end."""
    with running(work, directory / "own") as (agent, runner):
        assert runner.wait() == 0, runner.log
    return agent


def test_script_has_its_path_and_arguments_byte_for_byte(tmp_path: Path) -> None:
    arguments = [b"", b"two words", b"new\nline", b"\xff\xfe not UTF-8", b"$HOME"]
    work = work_in(tmp_path, 'printf \'%s\\0\' "$0" "$@"', *arguments)
    agent = run(work, tmp_path)
    assert agent.stdout.split(b"\0")[:-1] == [work.argv[0], *arguments]


def test_environment_is_exact_in_bytes_and_order(tmp_path: Path) -> None:
    environment = [b"Z=1", b"MULTI=a\nb=c", b"ODD=\xff\xfe", b"EMPTY=", b"BASH_FUNC_f%%=() {  :\n}", b"A==", b"Z=2"]
    environment.append(b"TMPDIR=" + os.fsencode(tmp_path))
    agent = run(work_in(tmp_path, SHOW, environment=environment), tmp_path)
    assert agent.stdout.split(b"\0")[:-1] == environment


def test_script_runs_in_the_submit_directory_with_its_umask(tmp_path: Path) -> None:
    agent = run(work_in(tmp_path, "pwd; umask; touch made", umask=0o027), tmp_path)
    assert agent.stdout.decode().split() == [str(tmp_path / "submit"), "0027"]
    assert stat.S_IMODE((tmp_path / "submit/made").stat().st_mode) == 0o640


def test_limits_are_set_as_far_as_permitted(tmp_path: Path) -> None:
    limits = {"NOFILE": (77, 99), "CORE": (0, 0), "STACK": (1 << 20, -1), "NPROC": (-1, -1), "NEW_IN_LINUX_9": (1, 1)}
    agent = run(work_in(tmp_path, "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -s", rlimits=limits), tmp_path)
    assert agent.stdout.split() == [b"77", b"99", b"0", b"1024"]


@pytest.mark.parametrize("huge", [2**63, 2**64 - 1, 2**70, -7])
def test_a_limit_that_no_kernel_has_is_none(tmp_path: Path, huge: int) -> None:
    work = work_in(tmp_path, "ulimit -Sf; ulimit -Hf", rlimits={"FSIZE": (huge, huge), "CORE": (0, huge)})
    assert run(work, tmp_path).stdout.split() == [b"unlimited", b"unlimited"]


def test_hard_limit_above_the_own_one_is_cut_not_refused(tmp_path: Path) -> None:
    work = work_in(tmp_path, "ulimit -Sn; ulimit -Hn", rlimits={"NOFILE": (3000, 4000)})
    unprivileged = ["prlimit", "--nofile=1000:2000", "setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    with running(work, tmp_path / "own", unprivileged) as (agent, runner):
        assert runner.wait() == 0, runner.log
    assert agent.stdout.split() == [b"2000", b"2000"]


def test_no_signal_is_ignored_or_blocked(tmp_path: Path) -> None:
    work = work_in(tmp_path, "#!/bin/cat\n", b"/proc/self/status")
    with running(work, tmp_path / "own", ["nohup"]) as (agent, runner):
        assert runner.wait() == 0, runner.log
    masks = dict(line.split(":\t") for line in agent.stdout.decode().splitlines() if line.startswith("Sig"))
    # 32 and 33 are glibc's own, which nobody can reset; make leaves them ignored.
    assert {int(masks[name], 16) & ~0x180000000 for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}


def test_script_leads_its_own_group_in_the_session_of_its_runner(tmp_path: Path) -> None:
    agent = run(work_in(tmp_path, "echo $$ $(ps -o pgid= -p $$); ps -o sid= -p $$; ps -o sid= -p $PPID"), tmp_path)
    pid, group, session, runners_session = agent.stdout.split()
    assert (pid, session) == (group, runners_session)


def test_no_descriptor_leaks_into_the_script(tmp_path: Path) -> None:
    work = work_in(tmp_path, "#!/usr/bin/python3 -IS\nimport os\nprint(sorted(os.listdir('/proc/self/fd'), key=int))\n")
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # as the agent's lock is
        keep = ["bash", "-c", f'exec {lock.fileno()}<&0; exec "$@"', "bash"]
        with running(work, tmp_path / "own", keep) as (agent, runner):
            assert runner.wait() == 0, runner.log
    assert agent.stdout == b"['0', '1', '2', '3']\n"  # 3 is the listing's own


def test_standard_input_is_empty_unless_given(tmp_path: Path) -> None:
    agent = run(work_in(tmp_path, "readlink /proc/self/fd/0; cat; echo end"), tmp_path)
    assert agent.stdout == b"/dev/null\nend\n"


def test_standard_input_arrives_whole(tmp_path: Path) -> None:
    stdin = os.urandom(3_000_000)
    agent = run(work_in(tmp_path, "cat", stdin=stdin), tmp_path)
    assert agent.stdout == stdin


def test_output_streams_stay_apart_unless_joined(tmp_path: Path) -> None:
    script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done"
    apart = run(work_in(tmp_path, script), tmp_path)
    assert (apart.stdout, apart.stderr) == (b"out1\nout2\nout3\n", b"err1\nerr2\nerr3\n")
    joined = run(work_in(tmp_path, script, is_output_joined=True), tmp_path / "submit")
    assert (joined.stdout, joined.stderr) == (b"out1\nerr1\nout2\nerr2\nout3\nerr3\n", b"")


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_code_is_reported(tmp_path: Path, code: int) -> None:
    agent = run(work_in(tmp_path, f"exit {code}"), tmp_path)
    assert [report["kind"] for report in agent.reports] == ["started", "ended"]
    assert agent.reports[-1]["exit_code"] == code


@pytest.mark.parametrize("name", ["SEGV", "KILL", "TERM", "USR1", "XCPU", "RTMIN"])
def test_death_by_signal_is_reported(tmp_path: Path, name: str) -> None:
    agent = run(work_in(tmp_path, f"kill -{name} $$"), tmp_path)
    assert agent.reports[-1]["signal"] == (signal.SIGRTMIN if name == "RTMIN" else signal.Signals["SIG" + name])
    assert "exit_code" not in agent.reports[-1]


def test_odd_bytes_in_the_script_reach_the_interpreter(tmp_path: Path) -> None:
    agent = run(work_in(tmp_path, b"#!/bin/bash\nprintf '%s' '\xff\xfe\x80\r'\n# no newline at the end"), tmp_path)
    assert agent.stdout == b"\xff\xfe\x80\r"


def test_usage_counts_what_the_script_burnt(tmp_path: Path) -> None:
    script = "#!/usr/bin/python3 -IS\nimport os\nblock = bytearray(64 << 20)\nwhile os.times().user < 0.3: pass\n"
    agent = run(work_in(tmp_path, script), tmp_path)
    assert agent.reports[-1]["user_cpu_ms"] >= 300
    assert agent.reports[-1]["max_rss_kib"] >= 64 << 10


def test_script_file_is_gone_after_the_run(tmp_path: Path) -> None:
    work = work_in(tmp_path, "stat -c %a $0")
    assert run(work, tmp_path).stdout == b"700\n"
    assert not Path(os.fsdecode(work.argv[0])).exists()


def test_a_file_that_lies_at_the_scripts_path_is_left_alone(tmp_path: Path) -> None:
    work = work_in(tmp_path, "echo $0")
    taken = Path(os.fsdecode(work.argv[0]))
    taken.parent.mkdir(parents=True)
    taken.write_text("somebody else's")
    assert run(work, tmp_path).stdout.decode() == f"{tmp_path}/own/slurm_script\n"
    assert taken.read_text() == "somebody else's"


# What slurmstepd wrote for the same scripts, and the exit codes that it gave: seen in November 2026.


@pytest.mark.parametrize(
    ("script", "code", "complaint"),
    [
        ("#!/bin/nonexist\necho hi\n", 2, "execve(): bad interpreter(/bin/nonexist): No such file or directory"),
        ("#!/bin/nonexist -x y  \n", 2, "execve(): bad interpreter(/bin/nonexist -x y  ): No such file or directory"),
        ("#!/nonexistent", 2, "execve(): bad interpreter(/nonexistent): No such file or directory"),
        ("#!/tmp\necho hi\n", 13, "execve(): {script}: Permission denied"),
        ("#!/etc/passwd\necho hi\n", 13, "execve(): {script}: Permission denied"),
        ("#!\necho hi\n", 8, "execve(): {script}: Exec format error"),
        ("#!/" + "a" * 300 + "\n", 8, "execve(): {script}: Exec format error"),
    ],
)
def test_script_that_cannot_be_executed_ends_as_under_slurmstepd(
    tmp_path: Path, script: str, code: int, complaint: str
) -> None:
    work = work_in(tmp_path, script, environment=[b"SLURMD_NODENAME=ovs1"])
    agent = run(work, tmp_path)
    expected = complaint.format(script=os.fsdecode(work.argv[0]))
    assert agent.stderr.decode() == f"slurmstepd-ovs1: error: {expected}\n"
    assert agent.reports[-1]["exit_code"] == code


def test_what_slurmstepd_would_say_bears_the_time_since_26_05(tmp_path: Path) -> None:
    environment = [b"SLURMD_NODENAME=ovs1", b"SLURM_JOB_OVERSUBSCRIBE=NO"]
    agent = run(work_in(tmp_path, "#!\necho hi\n", environment=environment), tmp_path)
    assert re.fullmatch(rb"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\] error: execve\(\): .+\n", agent.stderr)


@pytest.mark.parametrize(
    ("tmpdir", "complaint"),
    [
        ("/proc/no/such", "Unable to create TMPDIR [/proc/no/such]: No such file or directory"),
        ("/etc/passwd", "TMPDIR [/etc/passwd] is not a directory"),
        ("", "Unable to create TMPDIR []: No such file or directory"),
    ],
)
def test_unusable_tmpdir_is_replaced_as_by_slurmstepd(tmp_path: Path, tmpdir: str, complaint: str) -> None:
    agent = run(work_in(tmp_path, "echo $TMPDIR", environment=[b"TMPDIR=" + tmpdir.encode()]), tmp_path)
    assert agent.stderr.decode() == f"slurmstepd: error: {complaint}\nslurmstepd: error: Setting TMPDIR to /tmp\n"
    assert agent.stdout == b"/tmp\n"


def test_missing_tmpdir_is_made(tmp_path: Path) -> None:
    wanted = tmp_path / "scratch"
    agent = run(work_in(tmp_path, "stat -c %a $TMPDIR", environment=[b"TMPDIR=" + os.fsencode(wanted)]), tmp_path)
    assert agent.stdout == b"700\n"


def test_directory_that_cannot_be_had_is_the_sites_error_not_the_scripts(tmp_path: Path) -> None:
    work = work_in(tmp_path, "echo never")
    work.cwd = b"/proc/nowhere"
    agent = run(work, tmp_path)
    assert agent.stdout + agent.stderr == b""
    assert "/proc/nowhere" in agent.reports[-1]["error"]
    assert "exit_code" not in agent.reports[-1]
    assert agent.reports_of("started") == []
