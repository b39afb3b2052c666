"""No slot is promised twice: whatever is decided, seen, started and ended in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from overspill.v1 import router_pb2
from overspill_sidecar.cluster import Job, Trail
from overspill_sidecar.decision.capacity import Amount, SiteCapacity, SiteView, SlotGroup
from overspill_sidecar.policy import parse_policy
from overspill_sidecar.records.tally import Tally
from overspill_sidecar.router import Router
from overspill_sidecar.watch import ClusterWatch, prepare
from tests.integration.sidecar_road import in_memory_view
from tests.unit.sidecar_cluster import CONFIG, full_batch, job, node, running, snapshot

_SITE_CPUS = 8
#: Of these another cluster has some all the time: the virtual node and the site's total do not show it.
_OTHERS_CPUS = 2
_PROMISE_S = 30.0
_MOST = 2
_LIMITS = {
    "none": "",
    "jobs": f"overspill_max_jobs={_MOST}",
    "account": f"overspill_max_jobs_per_account={_MOST}",
}
_ACCOUNTS = ("physics", "chem")
#: What happens to which of the submissions.
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["create", "create", "start", "start", "start at home", "hear", "end", "reject"]),
        st.integers(0, 3),
    ),
    max_size=4,
)


@dataclass
class _Submission:
    """A job or an array that the router has diverted, and what has become of it."""

    decision_id: str
    cpus: int
    account: str
    #: Tasks that are not begun, and the ids of those that run at the site.
    pending: int
    slurm_job_id: int = 0
    running: set[int] = field(default_factory=set)

    @property
    def jobs(self) -> int:
        return self.pending + len(self.running)


class _Site:
    """An agent as its last poll has shown it; it hears of a run some time after Slurm has started it."""

    def __init__(self) -> None:
        self.runs: dict[int, int] = {}
        self.poll()

    def poll(self) -> None:
        used = sum(self.runs.values())
        free = Amount(max(0, _SITE_CPUS - _OTHERS_CPUS - used), 16384)
        total = Amount(_SITE_CPUS, 16384)
        slots = (SlotGroup(1, total, free),)
        capacity = SiteCapacity(total, free, free, slots, used=Amount(used, 100))
        self._view = SiteView("site-a", "overspill", is_reachable=True, capacity=capacity)

    def view(self, _now: float) -> SiteView:
        return self._view


class CapacityGuard(RuleBasedStateMachine):
    """A router, and a Slurm and an agent whose news reach it late and in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.site = _Site()
        self.tally = Tally(None)
        self.watch = ClusterWatch(in_memory_view(), refresh_s=1e9)
        self.router = Router(self.watch, [self.site], _PROMISE_S, clock=lambda: self.now)
        #: Those that Slurm will create, has created, or runs.
        self.alive: list[_Submission] = []
        self.last_id = 1000
        self.limit = "none"

    @initialize(limit=st.sampled_from(list(_LIMITS)))
    def a_policy_is_in_force(self, limit: str) -> None:
        self.limit = limit
        self.watch.policy = parse_policy([*CONFIG.parameters, _LIMITS[limit]])[0]
        self.slurm_is_looked_at([])

    @rule(
        cpus=st.sampled_from([1, 3, 6]),
        tasks=st.sampled_from([1, 1, 2, 3]),
        account=st.sampled_from(_ACCOUNTS),
        is_dry_run=st.booleans(),
    )
    def a_job_is_submitted(self, cpus: int, tasks: int, account: str, *, is_dry_run: bool) -> None:
        answer = self.router.answer(
            router_pb2.DecideRequest(
                has_script=True,
                num_tasks=cpus,
                time_limit_min=10,
                memory_per_cpu_mib=1,
                account=account,
                array=f"1-{tasks}" if tasks > 1 else "",
                is_dry_run=is_dry_run,
            )
        )
        if answer.verdict == router_pb2.DecideResponse.VERDICT_DIVERT and not is_dry_run:
            self.alive.append(_Submission(answer.decision_id, cpus, account, tasks))

    @rule(events=_EVENTS)
    def things_happen(self, events: list[tuple[str, int]]) -> None:
        for what, which in events:
            if self.alive:
                self._happen(what, self.alive[which % len(self.alive)])

    @rule(meanwhile=_EVENTS)
    def slurm_is_looked_at(self, meanwhile: list[tuple[str, int]]) -> None:
        """First it tells its jobs, then its nodes."""
        asked_at, jobs = self.now, [record for submission in self.alive for record in _records(submission)]
        self.things_happen(meanwhile)
        cpus = sum(submission.cpus * len(submission.running) for submission in self.alive)
        virtual_node = node("ovs1", 64, 160_000, partitions=("overspill",), cpus_allocated=cpus)
        home = snapshot(*full_batch())
        nodes = {**home.nodes, "ovs1": virtual_node}
        seen = replace(home, asked_at=asked_at, jobs=(*home.jobs, *jobs), nodes=nodes)
        self.watch.picture = prepare(seen, self.tally)

    @rule()
    def the_site_is_polled(self) -> None:
        self.site.poll()

    @rule()
    def time_passes(self) -> None:
        """Whatever Slurm has not rejected by then is there: a promise need not outlive that."""
        for submission in self.alive:
            self._happen("create", submission)
        self.now += _PROMISE_S

    def _happen(self, what: str, submission: _Submission) -> None:
        match what:
            case "reject" if not submission.slurm_job_id:
                self.alive.remove(submission)
            case "create" if not submission.slurm_job_id:
                self.last_id += 100
                submission.slurm_job_id = self.last_id
            case "start" | "start at home" if submission.slurm_job_id and submission.pending:
                submission.pending -= 1
                if what == "start":
                    submission.running.add(submission.slurm_job_id + submission.pending + 1)
            case "hear":
                self.site.runs |= dict.fromkeys(submission.running, submission.cpus)
            case "end" if submission.running:
                self.site.runs.pop(submission.running.pop(), None)

    @invariant()
    def the_site_has_what_is_promised_and_running(self) -> None:
        wanted = sum(submission.cpus * submission.jobs for submission in self.alive)
        assert wanted <= _SITE_CPUS - _OTHERS_CPUS

    @invariant()
    def no_more_jobs_are_diverted_than_the_word_allows(self) -> None:
        if self.limit == "jobs":
            assert sum(submission.jobs for submission in self.alive) <= _MOST
        for account in _ACCOUNTS if self.limit == "account" else ():
            assert sum(submission.jobs for submission in self.alive if submission.account == account) <= _MOST


def _records(submission: _Submission) -> list[Job]:
    """Return what squeue shows of a submission."""
    if not submission.slurm_job_id:
        return []
    trail = Trail(submission.decision_id, "site-a", "batch")
    common: dict[str, Any] = {"cpus": submission.cpus, "trail": trail, "memory_mib": 1, "account": submission.account}
    records = [running(number, "ovs1", partitions=("overspill",), **common) for number in submission.running]
    if submission.pending:
        tasks = {"tasks": submission.pending, "all_tasks": submission.pending}
        records.append(job(submission.slurm_job_id, partitions=("batch", "overspill"), **common, **tasks))
    return records


CapacityGuard.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestNoSlotIsPromisedTwice = CapacityGuard.TestCase
