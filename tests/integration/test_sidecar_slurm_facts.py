"""What only Slurm knows of jobs, read from a real one: limits, plans, reservations, states of nodes and partitions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overspill_sidecar.cluster import Job, Snapshot
from overspill_sidecar.slurm import CommandLineView
from overspill_sidecar.wait import QueuedJob, SlurmFacts
from overspill_sidecar.wait.knowledge import Knowledge
from tests.rig import ClusterOptions, Rig
from tests.rig.parts import ALL_PARTS
from tests.rig.slurm_conf import ACCOUNT
from tests.rig.waiting import poll

_SLEEP = "#!/bin/sh\nexec sleep 3600\n"
ALICE, BOB = 2001, 2002
_MINUTE_S, _HOUR_S = 60, 3600
_PRIORITIES = (
    "PriorityType=priority/multifactor",
    "PriorityWeightAge=1000",
    "PriorityMaxAge=7-0",
    "PriorityWeightFairshare=5000",
)


class Place:
    """A cluster without Overspill: a node is drained, one reserved, one will be in two hours, one is in use."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.run("scontrol", "update", "NodeName=c4", "State=DRAIN", "Reason=broken")
        self._reserve("course", "now", "c2", "Users=bob")
        self._reserve("maintenance", "now+2hours", "c1", "Users=root", "Flags=MAINT,IGNORE_JOBS")
        self.run("sacctmgr", "--immediate", "modify", "user", "bob", "set", "GrpTRES=cpu=2")
        rig.wait_for_state(self._submit("bob", "--nodelist=c3", "--ntasks=2", "--time=60"), "RUNNING")
        self.limited = self._submit("bob", "--time=10")
        self.wide = self._submit("alice", "--nodes=2", "--ntasks=4", "--time=30")
        self.too_long = self._submit("alice", "--time=2-0")

    def run(self, *argv: str) -> None:
        self._rig.cluster.run(list(argv), cwd="/", check=True)

    def snapshot(self) -> Snapshot:
        return asyncio.run(CommandLineView().snapshot())

    def snapshot_that(self, shows: Callable[[Snapshot, dict[int, Job]], object]) -> Snapshot:
        """Return the first snapshot that shows it: the backfill scheduler needs a few seconds."""
        seen: list[Snapshot] = []

        def is_shown() -> bool:
            seen.append(self.snapshot())
            return bool(shows(seen[-1], _jobs(seen[-1])))

        assert poll(is_shown, timeout_s=60, interval_s=0.5), f"the last snapshot was {seen[-1]}"
        return seen[-1]

    def _submit(self, user: str, *options: str) -> int:
        return self._rig.sbatch(_SLEEP, *options, user=user)

    def _reserve(self, name: str, start: str, node: str, *words: str) -> None:
        what = (f"ReservationName={name}", f"StartTime={start}", "Duration=60", f"Nodes={node}")
        self.run("scontrol", "create", "reservation", *what, *words)


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    cluster = ClusterOptions(accounting="associations,limits,qos", more_lines=_PRIORITIES)
    directory: Path = tmp_path_factory.mktemp("commands")
    with Rig.up(cluster=cluster, without=ALL_PARTS) as rig, pytest.MonkeyPatch.context() as patch:
        commands = rig.cluster.write_callers(directory, ["squeue", "scontrol"], user="slurm")
        patch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
        yield Place(rig)


@pytest.fixture(name="now", scope="module")
def _now(place: Place) -> Snapshot:
    return place.snapshot_that(
        lambda snapshot, jobs: (
            jobs[place.wide].start_time_s
            and jobs[place.limited].is_limited
            and jobs[place.too_long].is_out_of_bounds
            and snapshot.nodes["c1"].is_planned
        )
    )


def _jobs(snapshot: Snapshot) -> dict[int, Job]:
    return {job.slurm_job_id: job for job in snapshot.jobs}


def _known(now: Snapshot) -> Knowledge:
    return Knowledge(now, [job for job in now.jobs if job.is_competing and not job.is_out_of_bounds])


def _asks(now: Snapshot, user_id: int, cpus: int, minutes: int, priority: float | None = None) -> SlurmFacts:
    asked = QueuedJob("batch", cpus, minutes * _MINUTE_S, user_id, ACCOUNT, "", 1, memory_mib=1000)
    return _known(now).of_new(asked, priority)


def test_a_limit_keeps_the_next_job_back_as_it_keeps_the_one_that_waits(place: Place, now: Snapshot) -> None:
    of_bob, of_alice = _asks(now, BOB, 1, 10), _asks(now, ALICE, 1, 10)
    assert (of_bob.is_limited, of_bob.limit_share, of_bob.limited_of_user) == (True, 1.5, 1)
    assert (of_alice.is_limited, of_alice.limited_of_user, of_alice.limited_of_qos) == (False, 0, 1)
    pending = _jobs(now)
    assert _known(now).of_pending(pending[place.limited], "batch").is_limited is True
    assert _known(now).of_pending(pending[place.wide], "batch").is_limited is False


def test_the_planned_start_is_told_of_the_job_itself_and_of_those_it_comes_behind(place: Place, now: Snapshot) -> None:
    wide = _jobs(now)[place.wide]
    in_an_hour = pytest.approx(_HOUR_S, abs=120)
    own = _known(now).of_pending(wide, "batch")
    assert own.planned_wait_s == pytest.approx(_HOUR_S, rel=0.1)
    assert own.priority == pytest.approx(wide.priority, rel=0.06)
    assert _asks(now, ALICE, 4, 30).planned_harder_s == in_an_hour
    assert _asks(now, ALICE, 4, 31).planned_harder_s is None
    assert _asks(now, ALICE, 1, 31, wide.priority).planned_ahead_s == in_an_hour
    assert (_asks(now, ALICE, 1, 31, wide.priority - 1).jobs_ahead or 0) >= 1
    assert (now.config.priority_weight_age, now.config.priority_max_age_s) == (1000, 7 * 86400)


def test_cpus_that_are_drained_reserved_or_kept_are_told_apart(now: Snapshot) -> None:
    short, long = _asks(now, ALICE, 1, 30), _asks(now, ALICE, 1, 180)
    assert (_unreserved(short), _unreserved(long)) == (4, 2)  # c1 and c3; c3 alone
    assert (short.open_cpus, long.open_cpus) == (0, 0)  # bob has c3, and c1 is kept for the wide job


def _unreserved(facts: SlurmFacts) -> float:
    assert facts.usable_cpus is not None
    assert facts.reserved_cpus is not None
    return facts.usable_cpus - facts.reserved_cpus


def test_a_partition_that_is_down_is_told(place: Place, now: Snapshot) -> None:
    assert _asks(now, ALICE, 1, 30).starts_jobs is True
    place.run("scontrol", "update", "PartitionName=batch", "State=DOWN")
    assert _asks(place.snapshot(), ALICE, 1, 30).starts_jobs is False
