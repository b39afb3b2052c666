"""Signals, limits and output of a diverted job while it runs, on the real Slurm."""

from __future__ import annotations

import re
import signal
import time

import pytest

from tests.e2e.diversion import submit_diverted, wait_until, wait_until_diverting
from tests.rig import Rig

_TRAP = "trap 'echo caught {name}; exit {code}' {name}\n"
_SLEEP = "echo ready\nwhile :; do sleep 0.1; done\n"


def _start(rig: Rig, body: str, *options: str) -> int:
    """Submit a diverted job and return its id once its script has printed `ready`."""
    job_id = submit_diverted(rig, "#!/bin/bash\n" + body, *options)
    wait_until(lambda: b"ready" in rig.output(job_id), timeout_s=30, what=f"job {job_id} to print `ready`")
    return job_id


def _remote_processes(rig: Rig, marker: str) -> list[str]:
    """Return the command lines at the site that hold `marker`."""
    listing = rig.site.run(["ps", "-eo", "args="], check=True).stdout
    return [line for line in listing.splitlines() if marker in line and "ps -eo" not in line]


def test_output_appears_while_the_job_runs(rig: Rig) -> None:
    job_id = _start(rig, "echo ready; sleep 1000")
    assert rig.job(job_id)["JobState"] == "RUNNING"
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    rig.wait_for_state(job_id, ["CANCELLED"], timeout_s=30)


def test_scancel_reaches_the_remote_handler_and_its_last_words_come_back(rig: Rig) -> None:
    job_id = _start(rig, _TRAP.format(name="TERM", code=3) + _SLEEP)
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    rig.wait_for_state(job_id, ["CANCELLED"], timeout_s=30)
    wait_until(lambda: b"caught TERM" in rig.output(job_id), timeout_s=30, what="the handler's output")


def test_a_tree_that_ignores_term_is_killed_after_the_grace_period(rig: Rig) -> None:
    marker = f"sleep 7{time.monotonic_ns() % 10**7:07d}"
    job_id = _start(
        rig, f"trap '' TERM\n{marker} &\nsetsid {marker} &\n(exec {marker}) &\necho ready\nwait\n{marker}\n"
    )
    assert len(_remote_processes(rig, marker)) >= 3
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    job = rig.wait_for_state(job_id, ["CANCELLED"], timeout_s=60)
    assert job["ExitCode"] == "0:9"
    wait_until(lambda: not _remote_processes(rig, marker), timeout_s=30, what="the remote tree to be gone")


def test_scancel_batch_signals_the_shell_and_the_job_goes_on(rig: Rig) -> None:
    job_id = _start(rig, "trap 'echo got USR1' USR1\n" + _SLEEP)
    rig.cluster.run(["scancel", "--batch", "--signal=USR1", str(job_id)], user="alice", check=True)
    wait_until(lambda: b"got USR1" in rig.output(job_id), timeout_s=30, what="the USR1 handler's output")
    assert rig.job(job_id)["JobState"] == "RUNNING"
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    rig.wait_for_state(job_id, ["CANCELLED"], timeout_s=30)


def test_a_warning_that_comes_before_the_script_has_begun_reaches_its_handler(rig: Rig) -> None:
    agent = rig.site.daemon("agent")
    agent.signal(signal.SIGSTOP)
    try:
        job_id = submit_diverted(rig, "#!/bin/bash\nsleep 1\ntrap 'echo got USR1; exit 5' USR1\n" + _SLEEP)
        wait_until(lambda: bool(_proxies(rig, job_id)), timeout_s=30, what="the proxy")
        rig.cluster.run(["scancel", "--batch", "--signal=USR1", str(job_id)], user="alice", check=True)
    finally:
        agent.signal(signal.SIGCONT)
    assert rig.wait_for_state(job_id, ["FAILED"], timeout_s=60)["ExitCode"] == "5:0"
    assert b"got USR1" in rig.output(job_id)
    wait_until_diverting(rig)


def _proxies(rig: Rig, job_id: int) -> str:
    pattern = rf"overspill_proxy/__main__.py .*/job0*{job_id}/slurm_script"
    return rig.cluster.run(["pgrep", "-f", pattern]).stdout


#: What bash itself says holds paths and numbers of processes.
_FAMILY = """#!/bin/bash
exec 2>/dev/null
bash -c 'trap "echo child {name}; exit" {name}; echo ready; while :; do sleep 0.05; done' &
child=$!
trap 'echo shell {name}; sleep 0.5; kill -KILL $child; wait; exit 0' {name}
while :; do wait; done
"""
_WAYS = ("--partition=overspill", "--overspill=never")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1"])
@pytest.mark.parametrize("how", ["batch", "warning"])
def test_a_signal_for_the_shell_is_the_shells_alone_just_as_locally(rig: Rig, name: str, how: str) -> None:
    options = ["--time=1", f"--signal=B:{name}@60"] if how == "warning" else []
    job_ids = [rig.sbatch(_FAMILY.format(name=name), *options, way) for way in _WAYS]
    wait_until(lambda: all(b"ready" in rig.output(job_id) for job_id in job_ids), timeout_s=30, what="both to begin")
    if how == "batch":
        rig.cluster.run(["scancel", "--batch", f"--signal={name}", *map(str, job_ids)], user="alice", check=True)
    jobs = [rig.wait_for_state(job_id, ["COMPLETED", "FAILED"], timeout_s=90) for job_id in job_ids]
    outputs = [_lines(rig.output(job_id), job_id) for job_id in job_ids]
    assert outputs[0] == outputs[1]
    assert f"shell {name}".encode() in outputs[0]
    assert f"child {name}".encode() not in outputs[0]
    assert [job["Partition"] for job in jobs] == ["overspill", "batch"]


def test_scancel_reaches_shell_and_child_just_as_locally(rig: Rig) -> None:
    job_ids = [rig.sbatch(_FAMILY.format(name="TERM"), way) for way in _WAYS]
    wait_until(lambda: all(b"ready" in rig.output(job_id) for job_id in job_ids), timeout_s=30, what="both to begin")
    rig.cluster.run(["scancel", *map(str, job_ids)], user="alice", check=True)
    jobs = [rig.wait_for_state(job_id, "CANCELLED", timeout_s=30) for job_id in job_ids]
    outputs = [_lines(rig.output(job_id), job_id) for job_id in job_ids]
    assert outputs[0] == outputs[1]
    assert {b"child TERM", b"shell TERM"} <= set(outputs[0])
    assert jobs[0]["ExitCode"] == jobs[1]["ExitCode"]


def _lines(output: bytes, job_id: int) -> list[bytes]:
    """Return the lines in some order, with the job's id, node and time taken out of slurmstepd's."""
    said = rb"(?:slurmstepd-\S+:|\[\S+\]) error: \*\*\* JOB %d ON \S+ CANCELLED AT \S+" % job_id
    return sorted(re.sub(said, b"slurmstepd: CANCELLED", output).splitlines())


@pytest.mark.timeout(300)
def test_the_time_limit_ends_a_script_as_timeout_whatever_it_makes_of_term_just_as_locally(rig: Rig) -> None:
    obeys, ignores = _TRAP.format(name="TERM", code=0), "trap '' TERM\n"
    job_ids = [
        rig.sbatch(f"#!/bin/bash\nexec 2>/dev/null\n{handler}{_SLEEP}", "--time=1", way)
        for handler in (obeys, ignores)
        for way in _WAYS
    ]
    jobs = [rig.wait_for_state(job_id, ["TIMEOUT"], timeout_s=240) for job_id in job_ids]
    seen = [(job["ExitCode"], _lines(rig.output(job_id), job_id)) for job, job_id in zip(jobs, job_ids, strict=True)]
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert b"caught TERM" in seen[0][1]


def test_suspend_stops_the_remote_tree_and_resume_lets_it_go_on(rig: Rig) -> None:
    job_id = _start(rig, "echo ready; while :; do date +%s%N; sleep 0.1; done")
    rig.cluster.run(["scontrol", "suspend", str(job_id)], check=True)
    wait_until(lambda: _is_quiet_for(rig, job_id, 1.0), timeout_s=30, what="the output to stand still")
    silent = rig.output(job_id)
    rig.cluster.run(["scontrol", "resume", str(job_id)], check=True)
    wait_until(lambda: len(rig.output(job_id)) > len(silent), timeout_s=30, what="the output to go on")
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    rig.wait_for_state(job_id, ["CANCELLED"], timeout_s=30)


def _is_quiet_for(rig: Rig, job_id: int, seconds: float) -> bool:
    before = rig.output(job_id)
    time.sleep(seconds)
    return rig.output(job_id) == before


def test_a_hundred_megabytes_and_then_exit_arrive_whole(rig: Rig) -> None:
    script = "#!/bin/bash\nyes 0123456789abcdef0123456789abcde | head -c 100000000 | tee >(sha256sum >&2)\n"
    job_id = submit_diverted(rig, script, "--error=digest-%j.txt")
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=100)
    digest = rig.cluster.path(f"/home/alice/digest-{job_id}.txt").read_text().split()[0]
    told = rig.cluster.run(["sha256sum", f"/home/alice/slurm-{job_id}.out"], check=True).stdout.split()[0]
    assert told == digest


@pytest.mark.parametrize("program", ["srun", "salloc"])
def test_interactive_work_aimed_at_the_overspill_partition_is_refused_clearly(rig: Rig, program: str) -> None:
    refused = rig.cluster.run([program, "--partition=overspill", "hostname"], user="alice")
    assert refused.returncode != 0
    assert re.search(r"overspill.*(batch|sbatch)", refused.stderr, re.IGNORECASE)
    assert refused.stdout == ""


def test_a_bogus_value_of_the_option_is_refused_before_submission(rig: Rig) -> None:
    refused = rig.cluster.run(["sbatch", "--overspill=Sometimes", "--wrap", "true"], user="alice")
    assert refused.returncode != 0
    assert all(word in refused.stderr for word in ("Sometimes", "auto", "never", "always"))


def test_the_directive_in_the_script_keeps_a_job_local(rig: Rig) -> None:
    job_id = rig.sbatch("#!/bin/bash\n#SBATCH --overspill=never\ntrue\n")
    assert rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=30)["Partition"] == "batch"
