"""The router: answers Decide from memory over a Unix socket."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from overspill.errors import InvalidRequestError
from overspill.v1 import router_pb2
from overspill_sidecar import metrics
from overspill_sidecar.decision.budget import use_of
from overspill_sidecar.decision.capacity import Amount, SiteView, amount_of, can_start_now
from overspill_sidecar.decision.decide import Decision, Verdict, decide
from overspill_sidecar.decision.explored import Explored, ExploredJobs, shown_cpus
from overspill_sidecar.decision.promises import Promise, Promises
from overspill_sidecar.decision.situation import Situation
from overspill_sidecar.decision.trial import Trials
from overspill_sidecar.policy import Mode, Policy
from overspill_sidecar.probe import CHECK, RouterHealth
from overspill_sidecar.records.ledger import Entry, Ledger
from overspill_sidecar.records.record import Late, Record, message_of
from overspill_sidecar.unary import UnaryServer
from overspill_sidecar.wait import QueuedJob, WaitEstimate, WaitModel
from overspill_sidecar.watch import ClusterWatch, Picture

_log = structlog.get_logger(__name__)

#: Decisions kept for the wait model: those that no snapshot shows yet.
_KEPT_DECISIONS = 2_000

_DECIDE = f"/{router_pb2.DESCRIPTOR.services_by_name['Router'].full_name}/Decide"
#: What fits the wire: 136 years.
_MAX_WAIT_S = 2**32 - 1

_VERDICTS = {
    Verdict.LOCAL: router_pb2.DecideResponse.VERDICT_LOCAL,
    Verdict.DIVERT: router_pb2.DecideResponse.VERDICT_DIVERT,
    Verdict.REFUSE: router_pb2.DecideResponse.VERDICT_REFUSE,
}


class SiteSource(Protocol):
    """What the router wants of a site."""

    def view(self, now: float) -> SiteView: ...


@dataclass(frozen=True, slots=True)
class LateQuestion:
    """A pending job, or one task of a pending array.

    Attributes:
        decision_id: names the answer.
        request: what the job asks for.
        waits: its whole wait in each partition of its own; None: nobody knows. Asked for before, as whoever asks the
            wait model about a pending job may have to wait.
        refused_by: sites that could not take it before.
        change: what the record says of it beside.
    """

    decision_id: str
    request: router_pb2.DecideRequest
    waits: Mapping[str, WaitEstimate | None]
    refused_by: Sequence[str]
    change: Late

    def predict(self, job: QueuedJob) -> WaitEstimate | None:
        return self.waits.get(job.partition)


class Router:
    """Decides. All state is what the watch and the sites hold, the open promises, and the last records.

    Submissions are decided in the server's one thread, pending jobs (`late`) in the event loop's: a lock lets one of
    them decide at a time, so that what one gives away the other sees. Of what the loop's tasks change, a decision reads
    each thing once (the watch's picture and policy are swapped in whole). Promises and records are the router's own.
    """

    def __init__(
        self,
        watch: ClusterWatch,
        sites: Sequence[SiteSource],
        promise_s: float,
        ledger: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Represent the router of one cluster.

        Args:
            watch: the cluster.
            sites: where jobs may go.
            promise_s: how long capacity stays promised to a job that does not appear.
            ledger: remembers decisions for people.
            clock: that of the snapshots' `asked_at`.
        """
        self._watch = watch
        self._sites = sites
        self._ledger = ledger
        self._clock = clock
        self._promises = Promises(promise_s)
        self._picture: Picture | None = None
        self._trials = Trials()
        #: The last decisions, for the wait model.
        self.records: deque[Record] = deque(maxlen=_KEPT_DECISIONS)
        #: Jobs that stayed by lot: a later look leaves them alone.
        self.explored = ExploredJobs()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._late_counts: Counter[tuple[str, str]] = Counter()
        self._deciding = threading.Lock()

    def decide(self, message: bytes) -> bytes:
        """Answer an encoded DecideRequest; whatever goes wrong here, the answer is "local".

        Raises:
            InvalidRequestError: if it is none.
        """
        try:
            request = router_pb2.DecideRequest.FromString(message)
        except DecodeError as error:
            raise InvalidRequestError(f"no DecideRequest: {error}") from error
        try:
            with self._deciding:
                response = self.answer(request)
        except Exception:  # noqa: BLE001 - the RPC's edge; logged with its traceback
            _log.exception("decision failed", action="decide_failed")
            metrics.DECISIONS.labels(Verdict.LOCAL, "router_error").inc()
            response = router_pb2.DecideResponse(verdict=router_pb2.DecideResponse.VERDICT_LOCAL, reason="router_error")
        return response.SerializeToString()

    def answer(self, request: router_pb2.DecideRequest) -> router_pb2.DecideResponse:
        """Decide and, unless it is a dry run, promise what was given away and record the decision."""
        now = self._clock()
        picture = self._current_picture(now)
        decision_id = secrets.token_hex(8)
        situation = self._situation(picture, now)
        decision = decide(request, situation, decision_id)
        if not request.is_dry_run:
            unix_s, policy, sites = situation.unix_time_s, situation.policy, situation.sites
            self._take_note(Record(decision_id, now, unix_s, request, decision, policy, sites), picture)
            metrics.DECISIONS.labels(decision.verdict, decision.reason).inc()
        return _to_response(decision_id, decision)

    def decide_late(self, late: LateQuestion) -> Decision:
        """Decide about a pending job as about a submission; promise and record what is given away.

        Where a submission that must leave may wait at its site, a pending job waits at home for a free slot.
        """
        with self._deciding:
            now = self._clock()
            self._promises.withdraw(late.decision_id)
            picture = self._current_picture(now)
            situation = self._situation(picture, now)
            unix_s, policy = situation.unix_time_s, situation.policy
            # Slurm's times are to be compared with the moment at which it said them.
            asked_at_s = picture.snapshot.unix_time_s if picture else unix_s
            situation = replace(situation, predict=late.predict, unix_time_s=asked_at_s)
            decision = decide(late.request, situation, late.decision_id, refused_by=late.refused_by)
            if decision.verdict is Verdict.DIVERT and not _is_free_now(decision, situation):
                decision = decision._replace(verdict=Verdict.LOCAL, reason="no_free_slot", would_be=None)
            record = Record(late.decision_id, now, unix_s, late.request, decision, policy, situation.sites, late.change)
            if decision.verdict is Verdict.DIVERT or is_shadowed(decision, policy):
                self._keep(record)
            self._promise(record)
            return decision

    def note_recall(self, decision_id: str, request: router_pb2.DecideRequest, decision: Decision, late: Late) -> None:
        """Record that a job needs no site any more."""
        now = self._clock()
        sites = [site.view(now) for site in self._sites]
        self._keep(Record(decision_id, now, time.time(), request, decision, self._watch.policy, sites, late))

    def withdraw(self, decision_id: str) -> None:
        """Take back a promise whose job does not come."""
        with self._deciding:
            self._promises.withdraw(decision_id)

    def count_late(self, site: str, change: str) -> None:
        """Count a change of a pending job."""
        self._late_counts[site, change] += 1
        metrics.LATE_CHANGES.labels(site, change).inc()

    def late_counts(self) -> Sequence[tuple[tuple[str, str], int]]:
        """Return how often jobs were changed late since the start, by (site, change)."""
        return sorted(self._late_counts.items())

    def decision_counts(self) -> Sequence[tuple[tuple[str, str], int]]:
        """Return how often each (verdict, reason) was decided since the start, most often first. Any thread may ask."""
        # A copy is made in one step of the interpreter's, between two of the decision thread's.
        return Counter(dict(self._counts)).most_common()

    def promised(self) -> Mapping[str, Amount]:
        """Return what is promised of each site now to jobs that no snapshot shows yet; any thread may ask."""
        picture = self._watch.picture
        if picture is None:
            return {}
        return self._promises.unsettled(picture.seen_decisions, picture.snapshot.asked_at)

    def misses_jobs(self, seen_decisions: Collection[str], asked_at: float) -> bool:
        """Tell whether a snapshot that shows these decisions' jobs lacks some that were promised a place before it."""
        return self._promises.is_missing(seen_decisions, asked_at)

    def _current_picture(self, now: float) -> Picture | None:
        """Return the fresh picture; when it is a new one, bring promises and model up to this moment."""
        picture = self._watch.fresh(now)
        if picture is not None and picture is not self._picture:
            self._picture = picture
            self._promises.settle(picture.seen_decisions, picture.snapshot.asked_at)
            self._trials.observe(picture.queue.rooms, picture.snapshot.asked_at)
            for record in self._since(picture.snapshot.asked_at):
                _observe(picture.model, record)
        return picture

    def _since(self, moment: float) -> Iterable[Record]:
        """Yield the records from `moment` on: the jobs that a snapshot asked for then may not show."""
        for record in reversed(self.records):
            if record.decided_at < moment:
                return
            yield record

    def _situation(self, picture: Picture | None, now: float) -> Situation:
        return Situation(
            policy=self._watch.policy,
            queue=picture.queue if picture else None,
            sites=[site.view(now) for site in self._sites],
            promised=self._promises.by_site,
            promised_jobs=self._promises.jobs_by_site,
            promised_use=self._promises.use_by_account,
            on_trial=self._trials.at(now),
            user_ids=self._watch.user_ids,
            predict=picture.model.predict if picture else _knows_nothing,
            unix_time_s=time.time(),
        )

    def _take_note(self, record: Record, picture: Picture | None) -> None:
        decision = record.decision
        self.records.append(record)
        self._counts[decision.verdict, decision.reason] += 1
        self._keep(record)
        self._promise(record)
        if decision.reason == "explore" and picture is not None:
            self.explored.note(_explored(record, picture))
        if picture is not None:
            _observe(picture.model, record)
        _log.debug(
            "decided",
            action="decided",
            decision_id=record.decision_id,
            verdict=decision.verdict,
            reason=decision.reason,
            site=decision.site,
            user_id=record.request.user_id,
        )

    def _keep(self, record: Record) -> None:
        if self._ledger is not None:
            self._ledger.add(_entry(record))

    def _promise(self, record: Record) -> None:
        decision = record.decision
        if decision.verdict is Verdict.DIVERT and decision.shape is not None:
            amount, use = amount_of(decision.shape) * decision.shape.slots, use_of(decision.shape)
            self._promises.add(
                Promise(record.decision_id, decision.site, amount, use, decision.account, record.decided_at)
            )


def is_shadowed(decision: Decision, policy: Policy) -> bool:
    """Tell whether it is mode shadow alone that keeps the job."""
    return policy.mode is Mode.SHADOW and decision.would_be is Verdict.DIVERT


def _is_free_now(decision: Decision, situation: Situation) -> bool:
    """Tell whether the job can start at the decision's site now; one whose user insists was not asked that."""
    site = next(site for site in situation.sites if site.name == decision.site)
    room = situation.queue.rooms.get(site.partition) if situation.queue else None
    promised = situation.promised.get(site.name, Amount())
    return room is not None and decision.shape is not None and can_start_now(decision.shape, site, room, promised)


def _explored(record: Record, picture: Picture) -> Explored:
    request, shape, own = record.request, record.decision.shape, record.decision.own_partitions
    assert shape is not None  # noqa: S101 - a job without one is never drawn
    threads = {count for name in own for count in picture.queue.rooms[name].threads_per_core}
    cpus = shown_cpus(shape.cpus, (shape.nodes, max(request.num_tasks, 1)), threads)
    return Explored(record.decided_at_unix_s, request.user_id, frozenset(own), cpus, shape.time_limit_s)


def _entry(record: Record) -> Entry:
    at_ms = round(record.decided_at_unix_s * 1000)
    return Entry(at_ms, record.request.user_id, record.decision_id, lambda: message_of(record).SerializeToString())


def _knows_nothing(_: QueuedJob) -> WaitEstimate | None:
    return None


def _observe(model: WaitModel, record: Record) -> None:
    """Queue a job that stays local in the model; one that is diverted takes nothing of its own partition."""
    decision, shape = record.decision, record.decision.shape
    if decision.verdict is Verdict.LOCAL and shape is not None:
        user_id, account, qos = record.request.user_id, decision.account, record.request.qos
        for name in decision.own_partitions[:1]:
            cpus = shape.cpus * shape.slots
            model.observe(QueuedJob(name, cpus, shape.time_limit_s, user_id, account, qos, shape.nodes))


def _to_response(decision_id: str, decision: Decision) -> router_pb2.DecideResponse:
    response = router_pb2.DecideResponse(
        verdict=_VERDICTS[decision.verdict],
        decision_id=decision_id,
        user_message=decision.user_message,
        reason=decision.reason,
    )
    if decision.estimate is not None and not math.isinf(decision.estimate.median_s):
        response.predicted_wait_s = min(round(decision.estimate.median_s), _MAX_WAIT_S)
        response.is_wait_upper_bound = decision.estimate.is_upper_bound
    if decision.verdict is Verdict.DIVERT:
        response.partition = decision.partition
        response.admin_comment = decision.admin_comment
        response.time_limit_min = decision.pins.time_limit_min
        response.memory_per_cpu_mib = decision.pins.memory_per_cpu_mib
        response.memory_per_node_mib = decision.pins.memory_per_node_mib
        response.memory_per_gpu_mib = decision.pins.memory_per_gpu_mib
        response.cpus_per_gpu = decision.pins.cpus_per_gpu
    return response


def server_of(router: Router, health: RouterHealth, path: Path) -> UnaryServer:
    """Return the server that answers for `router` and its `health` on `path`, which only our own user may open."""

    def note_time(method: str, seconds: float) -> None:
        if method == _DECIDE:
            metrics.DECISION_SECONDS.observe(seconds)

    return UnaryServer(path, {_DECIDE: router.decide, CHECK: health.check}, note_time)
