"""Queues in which Slurm's own knowledge alone tells who waits: followed, learned, asked at submit and late.

Each day one job of alice's comes to a cluster that looks the same, and starts at once or after five hours.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from overspill_sidecar.accounting import Accounting, Association, Counted, Limits, Qos
from overspill_sidecar.cluster import Job, Reservation, Snapshot
from overspill_sidecar.wait import LearnedModel, OnlineModel, QueuedJob, WaitEstimate
from overspill_sidecar.wait.following import Following
from overspill_sidecar.wait.turns import Turns
from tests.unit.sidecar_cluster import CONFIG, NOW_S, job, running, snapshot

_DAY_S, _LONG_S, _DAYS = 86_400, 5 * 3600, 300
_ASKED = QueuedJob("batch", 2, 3600, 2001, "hpc", "", 1)
_NO_LIMITS = Limits(groups={}, job_tres={}, node_tres={}, job_minutes={}, wall_min=None)

#: What the cluster looks like at that time, on a day on which she waits or on one on which she does not.
_Scene = Callable[[float, bool], Snapshot]


def _qos_is_used_up(at_s: float, is_bad: bool) -> Snapshot:  # noqa: FBT001 - the scene's
    in_use = replace(_NO_LIMITS, groups={"tres/cpu": Counted(16, 16 if is_bad else 2)})
    association = Association("hpc", 2001, "", "", is_default=True, limits=_NO_LIMITS)
    accounting = Accounting({("hpc", 2001, ""): association}, {2001: "hpc"}, {"normal": Qos("normal", in_use, {}, {})})
    enforcing = replace(CONFIG, enforced=frozenset({"associations", "limits", "qos"}))
    return replace(snapshot(), accounting=accounting, config=enforcing, unix_time_s=at_s)


def _another_is_planned_late(at_s: float, is_bad: bool) -> Snapshot:  # noqa: FBT001 - the scene's
    start_s = int(at_s) + (_LONG_S if is_bad else 60)
    other: dict[str, Any] = {"user_id": 2002, "user_name": "bob", "submit_time_s": NOW_S, "eligible_time_s": NOW_S}
    return replace(snapshot(job(1, cpus=4, start_time_s=start_s, **other)), unix_time_s=at_s)


def _nodes_will_be_reserved(at_s: float, is_bad: bool) -> Snapshot:  # noqa: FBT001 - the scene's
    in_s = 1800 if is_bad else 20_000
    all_nodes = Reservation("maintenance", ("c1", "c2", "c3", "c4"), int(at_s) + in_s, int(at_s) + in_s + 3600)
    return replace(snapshot(), reservations=(all_nodes,), unix_time_s=at_s)


_SCENES = [_qos_is_used_up, _another_is_planned_late, _nodes_will_be_reserved]


class Life:
    """A model that has lived through many such days."""

    def __init__(self, scene: _Scene) -> None:
        self._scene = scene
        self._following = Following(OnlineModel(1), {"overspill"})
        drawn = random.Random(1)  # noqa: S311 - a workload, not a secret
        for day in range(_DAYS):
            self._live(day, is_bad=drawn.random() < 0.4)
        self.now_s = NOW_S + _DAYS * _DAY_S

    def _live(self, day: int, *, is_bad: bool) -> None:
        at_s = NOW_S + day * _DAY_S
        start_s = at_s + (_LONG_S if is_bad else 2)
        times: dict[str, Any] = {"submit_time_s": at_s, "eligible_time_s": at_s, "account": "hpc", "qos": "normal"}
        number = 100 + day
        started = running(number, "c1", start_time_s=start_s, **times)
        self._see(at_s - 5, is_bad)
        self._see(at_s + 5, is_bad, job(number, cpus=2, **times) if is_bad else started)
        self._see(start_s + 5, is_bad, started)
        self._see(start_s + 3000, is_bad)

    def _see(self, at_s: float, is_bad: bool, *jobs: Job) -> None:  # noqa: FBT001 - passed on
        scene = self._scene(at_s, is_bad)
        self._following.take(replace(scene, jobs=(*scene.jobs, *jobs)))

    def today(self, *jobs: Job, is_bad: bool) -> LearnedModel:
        """Return what answers on one more day."""
        self._see(self.now_s, is_bad, *jobs)
        return LearnedModel(self._following, Turns(), {2001: "alice"}, lambda: self.now_s, said={}, submitted={})


@pytest.fixture(name="life", scope="module", params=_SCENES)
def _life(request: pytest.FixtureRequest) -> Life:
    return Life(request.param)


def _p_long(wait: WaitEstimate | None) -> float:
    assert wait is not None
    return wait.p_exceeds(1800)


def test_at_the_submission_slurms_knowledge_tells_who_waits(life: Life) -> None:
    assert _p_long(life.today(is_bad=True).predict(_ASKED)) > 0.6
    assert _p_long(life.today(is_bad=False).predict(_ASKED)) < 0.4


def test_at_a_later_look_a_jobs_own_plan_tells_whether_it_goes_on_waiting() -> None:
    life = Life(_another_is_planned_late)

    def p_long(start_in_s: int) -> float:
        since_s, start_s = life.now_s - 60, life.now_s + start_in_s
        pending = job(999, cpus=2, submit_time_s=since_s, eligible_time_s=since_s, account="hpc", start_time_s=start_s)
        return _p_long(life.today(pending, is_bad=True).pending(pending, "batch"))

    assert p_long(_LONG_S) > 0.6
    assert p_long(60) < 0.4
