"""A policy on trial: what it does with a history, beside what never, always and perfect knowledge would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from overspill_sidecar.policy import Mode, Policy, WordKey
from overspill_sidecar.simulation.foresight import Constant, Foresight, Oracle
from overspill_sidecar.simulation.local import LocalSite, RecordedSite, SimulatedSite, Sizes
from overspill_sidecar.simulation.remote import RemoteSite
from overspill_sidecar.simulation.replay import Played, Replay
from overspill_sidecar.simulation.rules import Rules
from overspill_sidecar.simulation.tally import Counted, Tally, counted, quantile, reasons, tallies, tally
from overspill_sidecar.simulation.timeline import Need, Span, need, span_s, spans
from overspill_sidecar.simulation.workload import Workload


class Way(StrEnum):
    """How to tell whose wait would be too long. All obey the policy's other words."""

    #: Nobody's.
    NEVER = "never"
    #: By the policy's mode, with the wait model.
    POLICY = "policy"
    #: Everybody's: whoever finds a free slot goes.
    ALWAYS = "always"
    #: By knowing how long each job will run.
    ORACLE = "oracle"


#: Called with a way and how many jobs it has played.
OnWayProgress = Callable[[Way, int], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried.

    Attributes:
        sizes: of the cluster.
        is_history: whether waits are those of the history, whatever is diverted, instead of a simulated cluster's.
        warm_up: share of the jobs that are played first and not counted: the cluster fills, the model learns.
        late_every_s: from one look at the jobs that wait to the next; infinite: there is none.
        model: makes a wait model that knows nothing yet.
    """

    workload: Workload
    policy: Policy
    sizes: Sizes
    sites: Sequence[RemoteSite]
    is_history: bool
    warm_up: float
    late_every_s: float
    model: Callable[[], Foresight]


@dataclass(frozen=True, slots=True)
class WayResult:
    """What one way came to."""

    way: Way
    tally: Tally
    median_wait_s: float
    p95_wait_s: float
    need: Need


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What a trial came to; groups, reasons and time are the policy's.

    Attributes:
        recorded: mean and median wait in the history, to see how near to it the simulated cluster comes.
        by_site: the jobs that each site was chosen for.
    """

    ways: tuple[WayResult, ...]
    recorded_mean_wait_s: float
    recorded_median_wait_s: float
    reasons: Mapping[str, int]
    by_partition: Mapping[str, Tally]
    by_account: Mapping[str, Tally]
    by_user: Mapping[str, Tally]
    by_site: Mapping[str, Tally]
    spans: tuple[Span, ...]
    span_s: int

    def of(self, way: Way) -> WayResult:
        return next(result for result in self.ways if result.way is way)


def run_trial(trial: Trial, ways: Sequence[Way], on_progress: OnWayProgress) -> TrialResult:
    """Play the history once for each way; never and the policy must be among them."""
    first = int(len(trial.workload.jobs) * trial.warm_up)
    played = {way: _play(trial, way, first, on_progress) for way in ways}
    rows = {way: counted(trial.workload.jobs, played[way], played[Way.NEVER], first) for way in ways}
    chosen = rows[Way.POLICY]
    recorded = [row.job.recorded_wait_s for row in chosen]
    return TrialResult(
        ways=tuple(_result(way, rows[way], played[way]) for way in ways),
        recorded_mean_wait_s=sum(recorded) / len(recorded),
        recorded_median_wait_s=quantile(recorded, 0.5),
        reasons=reasons(chosen),
        by_partition=tallies(chosen, lambda row: row.job.past.partition),
        by_account=tallies(chosen, lambda row: row.job.past.account),
        by_user=tallies(chosen, lambda row: row.job.past.user),
        by_site=tallies(chosen, lambda row: row.fate.chosen.partition if row.fate.chosen else None),
        spans=spans(chosen, played[Way.POLICY].usage),
        span_s=span_s(chosen[-1].job.at_s - chosen[0].job.at_s),
    )


def _play(trial: Trial, way: Way, first: int, on_progress: OnWayProgress) -> Played:
    local: LocalSite = RecordedSite() if trial.is_history else SimulatedSite(trial.sizes)
    policy = trial.policy if way is Way.POLICY else _switched_on(trial.policy)
    replay = Replay(
        trial.workload,
        Rules(policy, trial.workload),
        local,
        trial.sites,
        _foresight(trial, way, local),
        is_history=trial.is_history,
        counted_from=first,
        late_every_s=trial.late_every_s,
    )
    return replay.run(lambda done: on_progress(way, done))


def _foresight(trial: Trial, way: Way, local: LocalSite) -> Foresight:
    match way:
        case Way.NEVER:
            return Constant(answer=False)
        case Way.ALWAYS:
            return Constant(answer=True)
        case Way.ORACLE:
            return Oracle(local)
        case Way.POLICY:
            return trial.model()


def _switched_on(policy: Policy) -> Policy:
    """Return the policy with mode on and nothing kept back at random, so that ways differ in what they know only."""
    kept = {key: value for key, value in policy.words.items() if key.key not in {"mode", "explore"}}
    return Policy(MappingProxyType({**kept, WordKey("mode"): Mode.ON, WordKey("explore"): 0.0}))


def _result(way: Way, rows: Sequence[Counted], played: Played) -> WayResult:
    waits = [row.fate.wait_s for row in rows]
    return WayResult(
        way=way,
        tally=tally(rows),
        median_wait_s=quantile(waits, 0.5),
        p95_wait_s=quantile(waits, 0.95),
        need=need(played.usage, rows[0].job.at_s, rows[-1].job.at_s),
    )
