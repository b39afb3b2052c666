"""Pending jobs that are looked at again, on a real Slurm: let go, called back, left to their users."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.commands import overspill_json
from tests.e2e.diversion import wait_for_line, wait_until
from tests.rig import ClusterOptions, Rig
from tests.rig.routing import ask_router
from tests.rig.slurm_conf import VIRTUAL_NODE

_SLEEP = "#!/bin/sh\nexec sleep 3600\n"
_REFUSED_AT_RANDOM = ("Resource temporarily unavailable", "Interrupted system call")
#: The site is another host; what runs there says so.
_WHERE = "#!/bin/bash\necho at $(uname -n), task ${SLURM_ARRAY_TASK_ID:-none}\nsleep 3600\n"


@pytest.fixture(name="full", scope="module")
def _full() -> Iterator[Rig]:
    """A cluster of two nodes that are busy for an hour; one may wait for ten minutes."""
    cluster = ClusterOptions(real_nodes=2, late_every_s=0.5, site_cpus=4)
    with Rig.up(policy="overspill_mode=on overspill_wait=00:10:00", cluster=cluster) as rig:
        for _ in range(cluster.real_nodes):
            filler = rig.sbatch(_SLEEP, "--ntasks=2", "--nodes=1", "--time=60", "--overspill=never", user="bob")
            rig.wait_for_state(filler, "RUNNING")
        wait_until(lambda: _answer(rig) == "DIVERT", timeout_s=60, what="the router to divert")
        yield rig


@pytest.fixture(name="rig")
def _rig(full: Rig) -> Iterator[Rig]:
    """The same; what a test leaves is gone before the next."""
    full.set_policy("overspill_mode=on overspill_wait=00:10:00")
    wait_until(lambda: _answer(full) == "DIVERT", timeout_s=60, what="the site to be free")
    yield full
    full.cluster.run(["scancel", "--user=alice"], check=True)
    full.cluster.run(["scontrol", "update", f"NodeName={VIRTUAL_NODE}", "State=RESUME"])


def _answer(rig: Rig) -> object:
    answer = ask_router(rig)
    return answer and answer["verdict"]


def _scontrol(rig: Rig, *fields: str, user: str = "root") -> None:
    """Make a change; 24.11 and 26.05 refuse one of a partition at random where the job's user has no association."""

    def is_made() -> bool:
        done = rig.cluster.run(["scontrol", "update", *fields], user=user)
        assert done.returncode == 0 or any(words in done.stderr for words in _REFUSED_AT_RANDOM), done.stderr
        return done.returncode == 0

    wait_until(is_made, timeout_s=30, what=f"Slurm to take {' '.join(fields)}")


def _close_site(rig: Rig) -> None:
    _scontrol(rig, f"NodeName={VIRTUAL_NODE}", "State=DRAIN", "Reason=held for the test")
    wait_until(lambda: _answer(rig) == "LOCAL", timeout_s=30, what="the router to see the drain")


def _open_site(rig: Rig) -> None:
    _scontrol(rig, f"NodeName={VIRTUAL_NODE}", "State=RESUME")


def _submit_local(rig: Rig, *options: str, script: str = _WHERE) -> int:
    """Submit a job that stays at home because the site is closed at that moment; the site is closed after it, too."""
    _close_site(rig)
    job_id = rig.sbatch(script, *options)
    assert rig.job(job_id)["Partition"] == "batch"
    return job_id


def _diverted_and_pending(rig: Rig) -> int:
    """Return a job that has been let go to the site, which is closed before Slurm could start it."""
    _close_site(rig)
    job_id = rig.sbatch(_WHERE, "--hold", "--time=10", "--partition=batch,overspill")
    trail = '{"overspill":{"decision":"d","site":"site-a","partition":"batch","time_limit_s":"600"}}'
    _scontrol(rig, f"JobId={job_id}", f"AdminComment={trail}")
    rig.cluster.run(["scontrol", "release", str(job_id)], check=True)
    return job_id


def _shorten_wait(rig: Rig) -> None:
    """Have everybody start at home soon."""
    shown = rig.cluster.run(["squeue", "-h", "--user=bob", "--states=R", "-o", "%i"], check=True).stdout.split()
    for job_id in shown:
        started_min = int(rig.cluster.run(["squeue", "-h", "-j", job_id, "-o", "%M"], check=True).stdout.split(":")[0])
        _scontrol(rig, f"JobId={job_id}", f"TimeLimit={started_min + 3}")


def test_a_job_whose_wait_becomes_too_long_runs_at_the_site_under_its_own_id(rig: Rig) -> None:
    rig.set_policy("overspill_mode=on overspill_wait=10:00:00")
    wait_until(lambda: _answer(rig) == "LOCAL", timeout_s=30, what="the router to see the policy")
    job_id = rig.sbatch(_WHERE, "--comment=as it was", "--job-name=late one")
    never = rig.sbatch(_WHERE, "--overspill=never")
    before = rig.job(job_id)
    assert (before["Partition"], before["JobState"]) == ("batch", "PENDING")
    rig.set_policy("overspill_mode=on overspill_wait=00:10:00")
    now = rig.wait_for_state(job_id, "RUNNING", timeout_s=60)
    wait_for_line(rig, job_id, b"at site, task none")
    assert (now["Partition"], now["NodeList"], now["Restarts"]) == ("overspill", VIRTUAL_NODE, "0")
    kept = ("JobId", "JobName", "TimeLimit", "NumCPUs", "MinMemoryCPU", "Comment", "SubmitTime", "StdOut")
    assert {key: now[key] for key in kept} == {key: before[key] for key in kept}
    assert rig.job(never)["Partition"] == "batch"
    why = overspill_json(rig, "explain", str(job_id))
    assert why["decision"]["late_change"] == "added"
    assert why["certainty"] == "certain"
    changes = overspill_json(rig, "status")["late_changes"]
    assert {"site": "site-a", "change": "added", "count": 1} in changes


def test_jobs_that_become_eligible_are_looked_at(rig: Rig) -> None:
    parent = rig.sbatch("#!/bin/sh\nexec sleep 2\n", "--overspill=always")
    child = rig.sbatch(_WHERE, f"--dependency=afterok:{parent}")
    held = rig.sbatch(_WHERE, "--hold")
    assert {rig.job(job_id)["Partition"] for job_id in (child, held)} == {"batch"}
    rig.wait_for_state(parent, "COMPLETED", timeout_s=60)
    rig.wait_for_state(child, "RUNNING", timeout_s=60)
    assert rig.job(held)["Partition"] == "batch"
    rig.cluster.run(["scontrol", "release", str(held)], user="alice", check=True)
    rig.wait_for_state(held, "RUNNING", timeout_s=60)
    assert {rig.job(job_id)["Partition"] for job_id in (child, held)} == {"overspill"}


@pytest.mark.timeout(300)
def test_array_tasks_go_one_by_one_as_there_are_slots(rig: Rig) -> None:
    array = rig.sbatch(_WHERE, "--array=1-6", "--cpus-per-task=2", "--time=10")
    assert rig.job(array)["Partition"] == "batch"  # six times two CPUs do not fit into four

    def at_site() -> list[str]:
        shown = rig.cluster.run(["squeue", "-h", "-r", "-j", str(array), "-o", "%K %P %T"], check=True).stdout
        return sorted(line.split()[0] for line in shown.splitlines() if line.endswith("overspill RUNNING"))

    wait_until(lambda: at_site() == ["5", "6"], timeout_s=60, what="two tasks to run at the site")
    for task in (5, 6):
        wait_for_line(rig, f"{array}_{task}", b"at site, task %d" % task)
    rest = rig.cluster.run(["squeue", "-h", "-r", "-j", str(array), "-t", "PD", "-o", "%K %P"], check=True).stdout
    assert sorted(rest.splitlines()) == [f"{task} batch" for task in (1, 2, 3, 4)]
    rig.cluster.run(["scancel", f"{array}_5", f"{array}_6"], check=True)
    # Who finds no slot is not asked about again for half a minute.
    wait_until(lambda: at_site() == ["3", "4"], timeout_s=120, what="the next ones to run there")


def test_what_the_user_changes_by_hand_stays_as_he_left_it(rig: Rig) -> None:
    job_id = _diverted_and_pending(rig)
    wait_until(lambda: rig.job(job_id)["Reason"] != "JobHeldAdmin", timeout_s=30, what="the job to compete")
    _scontrol(rig, f"JobId={job_id}", "Partition=batch", user="alice")
    other = _submit_local(rig)
    _open_site(rig)
    rig.wait_for_state(other, "RUNNING", timeout_s=60)  # who could go has gone
    assert (rig.job(job_id)["Partition"], rig.job(job_id)["JobState"]) == ("batch", "PENDING")


def test_a_wish_that_nobody_noted_is_honoured_before_anything_is_sent(rig: Rig) -> None:
    job_id = _submit_local(rig, "--overspill=never", "--requeue")
    _scontrol(rig, f"JobId={job_id}", "AdminComment=")
    _open_site(rig)
    wait_until(lambda: rig.job(job_id)["Restarts"] == "1", timeout_s=60, what="the job to be sent home")
    wait_until(lambda: rig.job(job_id)["Partition"] == "batch", timeout_s=60, what="its own partition")
    assert b"at site" not in rig.output(job_id)


def test_a_job_that_will_start_at_home_soon_is_called_back(rig: Rig) -> None:
    job_id = _diverted_and_pending(rig)
    _shorten_wait(rig)
    wait_until(lambda: rig.job(job_id)["Partition"] == "batch", timeout_s=60, what="the recall")
    _open_site(rig)
    assert rig.job(job_id)["JobState"] == "PENDING"
    why = overspill_json(rig, "explain", str(job_id))
    assert (why["decision"]["late_change"], why["site"]) == ("recalled", None)
