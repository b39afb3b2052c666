"""The loop: looks at the queue, has the router decide, tells Slurm, and remembers what came of it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from overspill.errors import NotFoundError, OverspillError, TransientError
from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.cluster import Job, JobRequest
from overspill_sidecar.decision.decide import Decision, Verdict, Waits, best_partition
from overspill_sidecar.late.changes import addition, recall
from overspill_sidecar.late.memory import AGAIN_S, Memory, Unclear
from overspill_sidecar.late.outlook import outlook_of
from overspill_sidecar.pending.candidates import Look, Outlook, to_add, to_recall
from overspill_sidecar.pending.request import request_of, wish_of
from overspill_sidecar.pending.standing import BETWEEN_CHANGES_S
from overspill_sidecar.policy import Mode
from overspill_sidecar.records.record import Late
from overspill_sidecar.router import LateQuestion, Router, SiteSource, is_shadowed
from overspill_sidecar.slurm import ClusterView
from overspill_sidecar.slurm_text import last_array_tasks
from overspill_sidecar.wait import waited_s
from overspill_sidecar.watch import ClusterWatch, Picture

_log = structlog.get_logger(__name__)

#: Jobs that are asked about in one look, each a question to slurmctld; and changes, each of which takes its write lock.
_MOST_ASKED = 20
_MOST_CHANGES = 20
#: A look that takes longer ends; the rest has its turn with the next one.
_LOOK_S = 10.0


class LateLook:
    """Looks again at pending jobs. All that must outlive it is carried by the jobs."""

    def __init__(
        self,
        watch: ClusterWatch,
        view: ClusterView,
        sites: Sequence[SiteSource],
        router: Router,
        every_s: float,
        outlook_of: Callable[[Picture], Outlook] = outlook_of,
        host: str = "",
    ) -> None:
        """Represent the late look of one cluster.

        Args:
            watch: the cluster.
            view: the same, to ask and to tell.
            sites: where jobs may go.
            router: decides, so that nothing is given away twice.
            every_s: seconds from one look to the next.
            outlook_of: tells how long pending jobs wait.
            host: this host's name; each controller's has a router, and only that of the acting one changes jobs.
        """
        self._host = host
        self._outlook_of = outlook_of
        self._watch = watch
        self._view = view
        self._sites = sites
        self._router = router
        self._every_s = every_s
        self._memory = Memory()
        self._seen: Picture | None = None

    async def run(self) -> None:
        """Look at intervals until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                picture = self._watch.fresh(time.monotonic())
                if picture is not None and picture is not self._seen:
                    self._seen = picture
                    await self.step(picture)
            except TransientError as error:
                _log.debug("Slurm does not take changes now", action="late_failed", reason=error.reason)
            except Exception:  # noqa: BLE001 - the loop's edge; logged with its traceback
                _log.exception("looking at pending jobs failed", action="late_failed")

    def _is_acting(self, picture: Picture) -> bool:
        acting = picture.snapshot.config.acting_controller
        return not acting or acting.partition(".")[0] == self._host.partition(".")[0]

    async def step(self, picture: Picture) -> None:
        """Take one look: call back who needs no site any more, then let go whom waiting costs too much.

        Raises:
            TransientError: if Slurm does not answer; the next look goes on.
        """
        if not self._is_acting(picture):
            return
        now = time.monotonic()
        sites = [site.view(now) for site in self._sites]
        partitions = {site.name: site.partition for site in sites}
        await asyncio.to_thread(self._memory.take_in, picture.snapshot, partitions)
        for change, was_made in self._memory.settled(picture.snapshot):
            if was_made:
                self._note(change.kind, change.slurm_job_id, change.site, "")
        look = Look(
            picture.snapshot,
            self._watch.policy,
            sites,
            self._outlook_of(picture),
            functools.partial(self._memory.is_passed_over, snapshot=picture.snapshot, now=now),
        )
        recalls, additions = await asyncio.to_thread(_candidates, look)
        left = _Budget(now + _LOOK_S)
        for job, waits in recalls:
            if left.is_spent:
                return
            await self._recall(job, waits, look, left)
        questions = (self._view.request(job) for job, _ in additions)
        for (job, waits), asked in zip(additions, await asyncio.gather(*questions), strict=True):
            if left.is_spent:
                return
            await self._consider(job, waits, asked, look, left)

    async def _consider(self, job: Job, waits: Waits, asked: JobRequest | None, look: Look, left: _Budget) -> None:
        """Have the router decide about a job, or about one task after the other of an array that waits as one.

        An array is given half of what it waits with at most: how the other half fares then, the next look tells.
        """
        own = [look.snapshot.partitions[name] for name in job.partitions if name in look.snapshot.partitions]
        wish = wish_of(job.admin_comment)
        if asked is None or wish.stays or len(own) < len(job.partitions) or self._router.explored.has(job):
            self._memory.note_kept(job.slurm_job_id, time.monotonic(), BETWEEN_CHANGES_S)
            return
        request = request_of(job, asked, wish, own, look.snapshot.config)
        names = [job.name]
        if job.array_tasks:
            several = last_array_tasks(job.array_tasks, -(-job.tasks // 2))
            names = [f"{job.array_job_id}_{task}" for task in several]
        for name in names:
            if left.is_spent or not await self._add(job, name, waits, request, look):
                break
            left.changes -= 1

    async def _add(self, job: Job, name: str, waits: Waits, request: DecideRequest, look: Look) -> bool:
        """Let a job or a task go to a site if the router says so; tell whether that was done, or would have been."""
        now_s = look.snapshot.unix_time_s
        before = job.trail.decision_id if job.trail else ""
        late = Late("added", name, waited_s(job, now_s), before)
        refused_by = job.trail.refused_by if job.trail else ()
        decision_id = _decision_id(job, name)
        decision = self._router.decide_late(LateQuestion(decision_id, request, waits, refused_by, late))
        if is_shadowed(decision, look.policy):
            self._memory.note_kept(job.slurm_job_id, time.monotonic(), BETWEEN_CHANGES_S)
            self._router.count_late(decision.site, "shadow_added")
            return False
        if decision.verdict is not Verdict.DIVERT:
            # The share that is kept to measure by is drawn once for each job.
            pause_s = BETWEEN_CHANGES_S if decision.reason == "explore" else AGAIN_S
            self._memory.note_kept(job.slurm_job_id, time.monotonic(), pause_s)
            return False
        fields = addition(job, decision, look.partition_of_site[decision.site], now_s)
        if fields is None:
            self._memory.leave_alone(job.slurm_job_id)
            self._router.withdraw(decision_id)
            return False
        is_done = await self._change(job, name, decision_id, fields, Unclear(job.slurm_job_id, decision.site, "added"))
        if not is_done:
            self._router.withdraw(decision_id)
        return is_done

    async def _recall(self, job: Job, waits: Waits, look: Look, left: _Budget) -> None:
        assert job.trail is not None  # noqa: S101 - a diverted job has one
        site, decision_id, now_s = job.trail.site, _decision_id(job, job.name), look.snapshot.unix_time_s
        is_off = look.policy.mode is Mode.OFF
        reason = "recalled_mode_off" if is_off else "recalled_needless"
        decision = Decision(Verdict.LOCAL, reason, site=site, own_partitions=tuple(waits))
        if best := best_partition(waits, look.policy):
            decision = decision._replace(estimate=waits[best], wait_limit_s=look.policy.wait_s(best))
        request = DecideRequest(user_id=job.user_id, partition=",".join(job.partitions), has_script=True)
        late = Late("recalled", job.name, waited_s(job, now_s), job.trail.decision_id)
        if look.policy.mode is Mode.SHADOW:
            self._memory.note_kept(job.slurm_job_id, time.monotonic(), BETWEEN_CHANGES_S)
            self._router.note_recall(decision_id, request, decision._replace(reason=f"shadow_{reason}"), late)
            self._router.count_late(site, "shadow_recalled")
            return
        fields = recall(job, decision_id, now_s)
        if fields is None:
            self._memory.leave_alone(job.slurm_job_id)
            return
        left.changes -= 1
        self._router.note_recall(decision_id, request, decision, late)
        name = f"{job.array_job_id}_[{job.array_tasks}]" if job.array_tasks else job.name
        await self._change(job, name, decision_id, fields, Unclear(job.slurm_job_id, site, "recalled"))

    async def _change(self, job: Job, name: str, decision_id: str, fields: Mapping[str, str], change: Unclear) -> bool:
        """Tell Slurm, and tell whether it was done.

        Raises:
            TransientError: if Slurm gave no clear answer: what came of it, a later snapshot shows.
        """
        try:
            await self._view.update(name, **fields)
        except NotFoundError:
            return False  # over, or cancelled
        except TransientError:
            self._memory.unclear[decision_id] = replace(change, until_s=time.monotonic())
            raise
        except OverspillError as error:
            # It has started meanwhile, or Slurm does not take such a list from its user.
            self._memory.leave_alone(job.slurm_job_id)
            _log.warning(
                "Slurm refuses a change of a pending job",
                action="late_refused",
                slurm_job_id=job.slurm_job_id,
                site=change.site,
                reason=error.reason,
            )
            return False
        finally:
            self._memory.note_change(job.slurm_job_id, time.monotonic())
        self._note(change.kind, job.slurm_job_id, change.site, decision_id)
        return True

    def _note(self, kind: str, slurm_job_id: int, site: str, decision_id: str) -> None:
        self._router.count_late(site, kind)
        facts: dict[str, object] = {"slurm_job_id": slurm_job_id, "site": site, "decision_id": decision_id or None}
        if kind == "added":
            _log.info("pending job may start at a site as well", action="late_added", **facts)
        else:
            _log.info("pending job stays at home after all", action="late_recalled", **facts)


class _Budget:
    """What one look may still cost."""

    def __init__(self, ends_at: float) -> None:
        self.changes = _MOST_CHANGES
        self._ends_at = ends_at

    @property
    def is_spent(self) -> bool:
        return self.changes <= 0 or time.monotonic() >= self._ends_at


def _candidates(look: Look) -> tuple[list[tuple[Job, Waits]], list[tuple[Job, Waits]]]:
    """Return the jobs to recall and those to ask about, with their waits.

    Walks the whole queue, and waits for turns at the wait model: not for the event loop.
    """
    recalls = [(job, _waits(job, look)) for job in to_recall(look, _MOST_CHANGES)]
    return recalls, [(job, _waits(job, look)) for job in to_add(look, _MOST_ASKED)]


def _waits(job: Job, look: Look) -> Waits:
    own = job.trail.partition.split(",") if job.trail else job.partitions
    return {name: look.outlook(job, name) for name in own}


def _decision_id(job: Job, name: str) -> str:
    """Return the name of the next decision about a pending job: the same until it has been changed.

    So a change that is tried twice is one, and a share that is drawn by it is drawn once for a job, not at each look.
    """
    trail = job.trail
    carried = f"{trail.decision_id}/{trail.added_at_s}/{trail.recalled_at_s}/{trail.refused_by}" if trail else ""
    text = f"{name}/{job.submit_time_s}/{carried}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
