"""Following the queue by snapshots: what two of them differ by, as events for the wait model. Pure.

A query that failed gives no snapshot and so no event: nobody is taken to have ended. What happened between two looks is
put in order by Slurm's own times; a job that came and went between them is not seen at all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain

from overspill_sidecar.cluster import ClusterConfig, Job, Snapshot
from overspill_sidecar.wait.keys import Keys, own_key
from overspill_sidecar.wait.knowledge import Knowledge, queued
from overspill_sidecar.wait.model import QueuedJob
from overspill_sidecar.wait.online import OnlineModel
from overspill_sidecar.wait.tracked import Bounded
from overspill_sidecar.wait.waiting import NO_FACTS, SlurmFacts, WaitingJob

#: User, account, QOS and partition: jobs that have these in common begin with like priorities.
_Rights = tuple[int | None, str, str, str]
_KEPT_PRIORITIES = 20_000
#: What a job asks for, whether a limit keeps it back, and its priority, as far as an answer about it depends on them.
Shape = tuple[QueuedJob, bool, int]
#: So much of a difference between two priorities is none: fair shares change a little all the time.
_LIKE_PRIORITY = 0.1

_SUBMITTED, _STARTED = 1, 2
#: After so long without a snapshot, only those that waited long are left of the jobs that came meanwhile.
_BLIND_S = 120.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a snapshot says of the jobs that compete with local ones: pending and running, by key.

    Attributes:
        waited_as: by their keys, under which ones those waited that run now and did not at the last look.
    """

    waiting: Mapping[str, Job] = field(default_factory=dict)
    running: Mapping[str, Job] = field(default_factory=dict)
    waited_as: Mapping[str, str] = field(default_factory=dict)


class Following:
    """Keeps one model in step with Slurm. Not thread-safe, as the model is not: `guard` is for who shares it.

    Attributes:
        model: what is kept in step.
    """

    def __init__(
        self,
        model: OnlineModel,
        overspill_partitions: Collection[str],
        guard: AbstractContextManager[object] | None = None,
    ) -> None:
        """Begin to follow.

        Args:
            model: it may know jobs already, by keys of ours, from its last life.
            overspill_partitions: whose jobs run elsewhere, and are never learnt from.
            guard: held for each single event, so that whoever asks in between waits for one of them at most.
        """
        self.model = model
        self._guard = guard or nullcontext()
        self._overspill = frozenset(overspill_partitions)
        self._keys = Keys(model.queue.pending)
        #: When the last snapshot was taken, Unix seconds.
        self._seen_at_s = -math.inf
        #: Of the last snapshot.
        self._knowledge: Knowledge | None = None
        self._config: ClusterConfig | None = None
        self._last_priority: Bounded[_Rights, list[float]] = Bounded(_KEPT_PRIORITIES)

    def take(self, snapshot: Snapshot) -> None:
        """Tell the model what has happened since the last snapshot. Costs microseconds for each job that is pending."""
        seen = self._see(snapshot)
        self._note_capacity(snapshot)
        if self._is_blind(snapshot.unix_time_s):
            self._knowledge = None
        self._tell_departures(seen, snapshot.unix_time_s)
        # Of a job that is new they are told what was known before it came, as whoever decided about it was.
        self._tell_arrivals(seen, snapshot.unix_time_s)
        self._tell_limits(seen)
        self._note_priorities(seen, snapshot)
        self._knowledge = Knowledge(snapshot, seen.waiting.values())
        self._config = snapshot.config
        with self._guard:
            self.model.advance(snapshot.unix_time_s)
            self.model.followed_at_s = snapshot.unix_time_s
        self._seen_at_s = snapshot.unix_time_s

    def facts_for(self, job: QueuedJob) -> SlurmFacts:
        """Return what Slurm knows of a job that it has not seen yet. Any thread may ask."""
        knowledge = self._knowledge
        if knowledge is None:
            return NO_FACTS
        last = self._last_priority.get((job.user_id, job.account, job.qos, job.partition))
        return knowledge.of_new(job, last[0] if last else None)

    def _see(self, snapshot: Snapshot) -> _Seen:
        waiting: dict[str, Job] = {}
        running = {
            own_key(job): job for job in snapshot.jobs if job.is_active and self._overspill.isdisjoint(job.partitions)
        }
        started = {key: job for key, job in running.items() if key not in self.model.queue.running}
        waited_as = {key: self._keys.while_pending(job) for key, job in started.items()}
        for job in snapshot.jobs:
            if job.is_competing and not job.is_out_of_bounds and self._is_local(job):
                waiting.update((key, job) for key in self._keys.of_pending(job))
        self._keys.forget_all_but(snapshot.jobs)
        return _Seen(waiting, running, waited_as)

    def _is_local(self, job: Job) -> bool:
        """Whether its wait is one for local nodes alone: it is not, or not also, on its way to a site."""
        return job.trail is None and self._overspill.isdisjoint(job.partitions)

    def _note_capacity(self, snapshot: Snapshot) -> None:
        total = 0
        for node in snapshot.nodes.values():
            if not self._overspill.issuperset(node.partitions):
                total += node.cpus if node.is_usable else node.cpus_allocated
        with self._guard:
            self.model.set_cpus(total)

    def _note_priorities(self, seen: _Seen, snapshot: Snapshot) -> None:
        """Remember with which priority a user's next job will begin: that of the youngest, without what age gave it.

        Who asks before a submission may not know QOS or account yet: then the last job of any of them counts.
        """
        youngest: dict[_Rights, Job] = {}
        for job in (*seen.running.values(), *seen.waiting.values()):
            for partition in job.partitions:
                for account, qos in {(job.account, job.qos), (job.account, ""), ("", "")}:
                    rights: _Rights = job.user_id, account, qos, partition
                    other = youngest.get(rights)
                    if other is None or other.queued_at_s <= job.queued_at_s:
                        youngest[rights] = job
        for rights, job in youngest.items():
            until_s = job.start_time_s if job.is_active and job.start_time_s else snapshot.unix_time_s
            priority = _first_priority(job, until_s, snapshot.config)
            with self._guard:
                self._last_priority.made(rights, list)[:] = [priority]

    def _tell_departures(self, seen: _Seen, now_s: float) -> None:
        """Tell who is gone. When is not known: since the last snapshot, so that what follows comes after it.

        That may have been another router's: who left while none ran has not waited, or run, until now.
        """
        model = self.model
        at_s = now_s if model.followed_at_s is None else min(now_s, model.followed_at_s)
        with self._guard:
            running, pending = list(model.queue.running), list(model.queue.pending)
        for key in running:
            if key not in seen.running:
                with self._guard:
                    model.ended(key, at_s)
        started = frozenset(seen.waited_as.values())
        for key in pending:
            if key not in seen.waiting and key not in started:
                with self._guard:
                    model.removed(key, at_s)

    def _tell_arrivals(self, seen: _Seen, now_s: float) -> None:
        """Tell who was submitted and who has started, in the order in which it happened."""
        queue = self.model.queue
        started = {waited_as: seen.running[key] for key, waited_as in seen.waited_as.items()}
        new = [(key, job) for key, job in chain(seen.waiting.items(), started.items()) if key not in queue.pending]
        events = [(min(now_s, job.queued_at_s), _SUBMITTED, key, job) for key, job in new]
        for key, job in started.items():
            started_s = max(job.queued_at_s, min(now_s, job.start_time_s or now_s))
            events.append((started_s, _STARTED, key, job))
        for at_s, kind, key, job in sorted(events, key=lambda event: event[:3]):
            with self._guard:
                if kind == _SUBMITTED:
                    is_ours = self._is_local(job)
                    heard_at_s = self._heard_at_s(at_s, now_s)
                    self.model.submitted(self._arrived(key, job), heard_at_s, is_to_teach=is_ours)
                else:
                    self.model.started(key, at_s, own_key(job))

    def _tell_limits(self, seen: _Seen) -> None:
        """Tell which of the pending jobs a limit keeps back now, and which it does not any more."""
        pending = self.model.queue.pending
        for key, job in seen.waiting.items():
            if key in pending and pending[key].is_limited != job.is_limited:
                with self._guard:
                    self.model.limited(key, is_limited=job.is_limited)

    def _heard_at_s(self, queued_s: float, now_s: float) -> float:
        """Return when a job that is new counts as heard of: at once, if it was not there at the last snapshot."""
        is_heard_of = queued_s >= self._seen_at_s - 1.0 and not self._is_blind(now_s)
        return queued_s if is_heard_of else now_s

    def _is_blind(self, now_s: float) -> bool:
        """Tell whether the last snapshot says nothing of the jobs that are new in this one."""
        return now_s - self._seen_at_s > _BLIND_S

    def waiting_job(self, job: Job, partition: str) -> WaitingJob:
        """Return a pending job as the model knows it, in one of its partitions, with all that Slurm knows of it."""
        knowledge = self._knowledge
        facts = knowledge.of_pending(job, partition) if knowledge else NO_FACTS
        return WaitingJob.of(queued(job, partition), "", job.queued_at_s, job.user_name, facts)

    def shape_of(self, job: Job, partition: str, now_s: float) -> Shape:
        """Return what of a pending job somebody may change while it waits; its age, which grows, is no such thing."""
        priority = _first_priority(job, now_s, self._config) if self._config else 0.0
        return queued(job, partition), job.is_limited, round(math.log1p(priority) / _LIKE_PRIORITY)

    def _arrived(self, key: str, job: Job) -> WaitingJob:
        """Return a job that is new, in its first partition, with what was known before it came."""
        asked = queued(job, job.partitions[0] if job.partitions else "")
        return WaitingJob.of(asked, key, job.queued_at_s, job.user_name, self.facts_for(asked))


def _first_priority(job: Job, until_s: float, config: ClusterConfig) -> float:
    """Return a job's priority without what its age had given it by `until_s`.

    Source: https://slurm.schedmd.com/priority_multifactor.html#age.
    """
    if not config.priority_weight_age or not config.priority_max_age_s:
        return float(job.priority)
    age = min(1.0, max(0.0, until_s - job.queued_at_s) / config.priority_max_age_s)
    return max(0.0, job.priority - config.priority_weight_age * age)
