"""A small cluster whose pending jobs are looked at again: everything real but Slurm and the site."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from overspill.v1.router_pb2 import DecideRequest, DecideResponse
from overspill.v1.sidecar_pb2 import DecisionRecord
from overspill_sidecar.cluster import Job
from overspill_sidecar.decision.capacity import Amount, SiteCapacity, SiteView
from overspill_sidecar.late import LateLook
from overspill_sidecar.late.outlook import outlook_of
from overspill_sidecar.pending.candidates import Outlook
from overspill_sidecar.records.ledger import Ledger, Search
from overspill_sidecar.router import Router
from overspill_sidecar.slurm import InMemoryView
from overspill_sidecar.slurm.queries import parse_trail
from overspill_sidecar.watch import ClusterWatch, Picture
from tests.unit.sidecar_cluster import CONFIG, NOW_S, TOTAL, full_batch, job, snapshot

HOUR_S = 3600


class AtSite:
    """A site that is as it is told."""

    def __init__(self, name: str = "site-a", partition: str = "overspill") -> None:
        self.is_reachable = True
        self.free = TOTAL
        self._name, self._partition = name, partition

    def view(self, _now: float) -> SiteView:
        capacity = SiteCapacity(TOTAL, self.free, self.free)
        return SiteView(self._name, self._partition, self.is_reachable, capacity)


class Place:
    """`batch` is full for an hour, the site is idle, one may wait for a minute."""

    def __init__(self, *jobs: Job, outlook: Callable[[Picture], Outlook] = outlook_of) -> None:
        of = snapshot(*full_batch(), *jobs)
        self.now_s: float = NOW_S
        self.view = InMemoryView(CONFIG, dict(of.partitions), dict(of.nodes), *of.jobs)
        self.view.clock = lambda: self.now_s
        self.watch = ClusterWatch(self.view, refresh_s=60)
        self.site = AtSite()
        self.ledger = Ledger(None, 1000)
        self._outlook = outlook
        self.restart()

    def restart(self) -> None:
        """Begin as a router that knows nothing but what the jobs carry."""
        self.router = Router(self.watch, [self.site], 30, self.ledger)
        self.watch.misses_jobs = self.router.misses_jobs
        self.late = LateLook(self.watch, self.view, [self.site], self.router, 10, self._outlook)

    async def look(self, after_s: float = 0) -> None:
        """Let time pass and look once."""
        self.now_s += after_s
        await self.watch.refresh()
        assert self.watch.picture is not None
        await self.late.step(self.watch.picture)

    def looks(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.look())

    def say(self, **words: str) -> None:
        """Replace words of the policy."""
        before = dict(word.split("=", 1) for word in CONFIG.parameters[0].split(","))
        said = before | {f"overspill_{key}": value for key, value in words.items()}
        parameters = (",".join(f"{key}={value}" for key, value in said.items()), "")
        self.view.config = replace(CONFIG, parameters=parameters)

    def empty_batch(self) -> None:
        """End what runs; in this Slurm nothing starts by itself."""
        for each in full_batch():
            self.view.jobs.pop(each.slurm_job_id, None)
        self.view.nodes_by_name = dict(snapshot().nodes)

    def partitions(self, slurm_job_id: int) -> str:
        return ",".join(self.view.jobs[slurm_job_id].partitions)

    def change(self, slurm_job_id: int, **fields: str) -> None:
        """Do as a user or an admin does with scontrol."""
        asyncio.run(self.view.update(str(slurm_job_id), **fields))

    def decide(self, **fields: Any) -> DecideResponse:
        return self.router.answer(
            DecideRequest(
                **{"has_script": True, "num_tasks": 1, "time_limit_min": 10, "memory_per_cpu_mib": 100, **fields}
            )
        )

    def records(self) -> list[DecisionRecord]:
        """Return what was recorded, the newest first."""
        return list(map(DecisionRecord.FromString, asyncio.run(self.ledger.find(Search()))))


def waiting(slurm_job_id: int = 1, **changes: Any) -> Job:
    """Return a job that has just been submitted to `batch`."""
    submitted_s = changes.get("submit_time_s", NOW_S)
    plain = {"submit_time_s": submitted_s, "eligible_time_s": submitted_s, "cpus": 2, "memory_mib": 200}
    return job(slurm_job_id, **{**plain, **changes})


def diverted(slurm_job_id: int = 1, **changes: Any) -> Job:
    """Return a pending job that was diverted when it was submitted."""
    comment = '{"overspill":{"decision":"d-1","site":"site-a","partition":"batch"}}'
    fields: dict[str, Any] = {"partitions": ("batch", "overspill"), "admin_comment": comment}
    return waiting(slurm_job_id, **{**fields, "trail": parse_trail(comment), **changes})


def slots(cpus: int) -> Amount:
    return Amount(cpus, 16384)
