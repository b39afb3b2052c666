"""The admin's words on a running cluster: shadow mode, and a policy that changes while users submit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from overspill.v1 import router_pb2
from tests.e2e.commands import overspill, overspill_json
from tests.e2e.diversion import look_often, wait_until
from tests.rig import Rig
from tests.rig.errors import CommandError
from tests.rig.routing import ask_router

_NOTHING = "#!/bin/sh\n:\n"
_SLEEP = "#!/bin/sh\nexec sleep 3600\n"
_WAIT = "overspill_wait=00:01:00"
_LOCAL = router_pb2.DecideResponse.Verdict.Name(router_pb2.DecideResponse.VERDICT_LOCAL).removeprefix("VERDICT_")


@pytest.fixture(name="full_rig", scope="module")
def _full_rig() -> Iterator[Rig]:
    """A rig in shadow mode whose `batch` is full for an hour."""
    with Rig.up(policy=f"overspill_mode=shadow,{_WAIT}") as rig:
        look_often(rig)
        for _ in range(rig.options.cluster.real_nodes):
            filler = rig.sbatch(_SLEEP, "--nodes=1", "--ntasks=2", "--time=1:00:00", "--overspill=never", user="bob")
            rig.wait_for_state(filler, "RUNNING")
        yield rig


def _wait_for_reason(rig: Rig, reason: str, *options: str) -> None:
    def is_so() -> bool:
        answer = ask_router(rig, *options)
        return answer is not None and answer["reason"] == reason

    wait_until(is_so, timeout_s=40, what=f"the answer {reason}")


def test_shadow_mode_diverts_nothing_and_reports_what_it_would_have_done(full_rig: Rig) -> None:
    rig = full_rig
    _wait_for_reason(rig, "shadow_wait_above_threshold")
    jobs = [rig.sbatch(_NOTHING) for _ in range(3)]
    never = rig.sbatch(_NOTHING, "--overspill=never")
    for job_id in (*jobs, never):
        job = rig.job(job_id)
        assert (job["JobState"], job["Partition"]) == ("PENDING", "batch")
    assert not any("AdminComment" in rig.job(job_id) for job_id in jobs)
    assert overspill_json(rig, "jobs")["jobs"] == []
    for job_id in jobs:
        why = overspill_json(rig, "explain", str(job_id))
        decision = why["decision"]
        assert (decision["verdict"], decision["reason"]) == (_LOCAL, "shadow_wait_above_threshold")
        assert (decision["would_be"], decision["site"], why["site"]) == ("DIVERT", "site-a", None)
    assert "otherwise it would have gone" in overspill(rig, "explain", str(jobs[0])).stdout
    status = overspill_json(rig, "status")
    counted = {(it["verdict"], it["reason"]): it["count"] for it in status["decisions"]}
    assert (status["mode"], counted[_LOCAL, "shadow_wait_above_threshold"]) == ("shadow", 3)
    assert "DIVERT" not in {verdict for verdict, _ in counted}
    rig.cluster.run(["scancel", *map(str, (*jobs, never))], check=True)


_DROPPED = ("socket error", "Connection reset by peer")


@dataclass
class _Submitter:
    """A user who submits one job after the other, and what became of each submission."""

    rig: Rig
    partitions: list[str] = field(default_factory=list)
    problem: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                job_id = self.rig.sbatch(_NOTHING)
                self.partitions.append(self.rig.job(job_id)["Partition"])
                self.rig.cluster.run(["scancel", str(job_id)])
            except CommandError as error:
                # slurmctld drops the connections that it has while it reads its configuration anew (seen on 22.05).
                if not any(words in str(error) for words in _DROPPED):
                    self.problem = str(error)
                    return

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="submitter")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_until(self, is_so: Callable[[str], bool], what: str) -> None:
        """Wait until the last three submissions are so."""
        wait_until(
            lambda: self.problem != "" or (len(self.partitions) > 2 and all(map(is_so, self.partitions[-3:]))),
            timeout_s=60,
            what=what,
        )
        assert not self.problem


def test_a_policy_that_is_edited_under_load_takes_effect_without_a_restart(full_rig: Rig) -> None:
    rig = full_rig
    before = overspill_json(rig, "status")["router"]["started_at_ms"]
    with _Submitter(rig) as submitter:
        submitter.wait_until(lambda partition: partition == "batch", "jobs that stay in shadow mode")
        rig.set_policy(f"overspill_mode=on,{_WAIT}")
        submitter.wait_until(lambda partition: "overspill" in partition, "jobs that go")
        rig.set_policy(f"overspill_mode=on,{_WAIT},overspill_deny_users=alice")
        submitter.wait_until(lambda partition: partition == "batch", "jobs that a word keeps")
        rig.set_policy(f"overspill_mode=on,{_WAIT},overspill_max_cpu_hours=1000")
        submitter.wait_until(lambda partition: "overspill" in partition, "jobs that go again")
        rig.set_policy(f"overspill_mode=oops,{_WAIT},overspill_max_cpu_hours=0")
        submitter.wait_until(lambda partition: partition == "batch", "jobs of an account that has nothing left")
    assert _reason_of_the_last(rig) == "max_cpu_hours"
    status = overspill_json(rig, "status")
    assert status["router"]["started_at_ms"] == before
    assert (status["mode"], len(status["problems"])) == ("on", 1)
    assert "overspill_mode=oops" in status["problems"][0]


def _reason_of_the_last(rig: Rig) -> object:
    answer = ask_router(rig, user="alice")
    return answer["reason"] if answer else None


def test_what_an_account_has_had_is_known_after_a_restart(full_rig: Rig) -> None:
    rig = full_rig
    rig.set_policy(f"overspill_mode=on,{_WAIT},overspill_max_cpu_hours=1000")
    # What was promised to jobs that were cancelled before a look at the queue showed them is free again after a while.
    _wait_for_reason(rig, "wait_above_threshold", "--ntasks=4")
    # What is charged to a job that is not over is all that it has asked for.
    wait_until(lambda: _use(rig)["jobs"] == 0, timeout_s=60, what="earlier jobs to be over")
    before = _use(rig)["cpu_hours"]
    job_id = rig.sbatch("#!/bin/sh\nsleep 5\n", "--time=60", "--ntasks=4")
    rig.wait_for_state(job_id, "RUNNING", timeout_s=60)
    wait_until(lambda: _use(rig)["jobs"] == 1, timeout_s=30, what="the running job to count")
    assert _use(rig)["cpu_hours"] - before == pytest.approx(4, abs=0.01)
    rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
    wait_until(lambda: _use(rig)["jobs"] == 0, timeout_s=30, what="the job to be over")
    had = _use(rig)["cpu_hours"]
    assert 4 * 5 / 3600 <= had - before < 4 * 60 / 3600
    sidecar = rig.cluster.daemon("sidecar")
    sidecar.stop()
    sidecar.start()
    wait_until(lambda: _use(rig)["cpu_hours"] == had, timeout_s=30, what="the router to know it again")


def _use(rig: Rig) -> Any:
    """Return what jobs have that are charged to no account: the rig has none."""
    accounts = overspill_json(rig, "status")["accounts"] or []
    unused = {"jobs": 0, "cpu_hours": 0.0}
    return next((use for use in accounts if use["account"] == ""), unused)
