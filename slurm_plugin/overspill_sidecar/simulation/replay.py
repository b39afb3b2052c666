"""A history once more, with a policy in force."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overspill_sidecar.policy import Mode
from overspill_sidecar.simulation.foresight import Foresight
from overspill_sidecar.simulation.late import LateLooks
from overspill_sidecar.simulation.local import LocalSite
from overspill_sidecar.simulation.pool import Change
from overspill_sidecar.simulation.remote import RemoteSite, RemoteSites, Usage
from overspill_sidecar.simulation.rules import Rules
from overspill_sidecar.simulation.workload import ReplayedJob, Workload
from overspill_sidecar.wait import WaitEstimate

#: Called with how many jobs have been played.
OnProgress = Callable[[int], None]
_TELL_EVERY = 500
#: So that a second run is the same: what `overspill_explore` keeps is drawn, in the order of time.
_SEED = 1
_EXPLORE = "explore"


@dataclass(slots=True)
class Fate:
    """What became of a job.

    Attributes:
        threshold_s: the longest wait that the policy wants it to bear.
        reason: why it went or stayed: the stable word of a real decision.
        chosen: the site that it was sent to, or would have been but for the mode shadow; None if it was to stay.
        site: that it went to; None if it stayed.
        is_late: whether it was chosen only after it had waited.
        might_go: whether the policy lets it go and a site could take it at once, however long it would wait at home:
            as it came, or at the look that wanted it to go.
        would_exceed: whether its wait at home is, or would have been, longer than that; None if nobody looked, as for
            a diverted job that is not counted.
        wait_s: until it started, at home or at a site; a site's overhead counts.
    """

    threshold_s: float
    reason: str
    chosen: RemoteSite | None = None
    site: RemoteSite | None = None
    is_late: bool = False
    might_go: bool = False
    would_exceed: bool | None = None
    wait_s: float = math.nan

    @property
    def is_chosen(self) -> bool:
        return self.chosen is not None

    @property
    def waits_too_long(self) -> bool:
        return self.wait_s > self.threshold_s

    @property
    def is_needless(self) -> bool:
        return self.is_chosen and self.would_exceed is False

    @property
    def is_missed(self) -> bool:
        return self.might_go and not self.is_chosen and self.would_exceed is True


@dataclass(frozen=True, slots=True)
class Played:
    """What became of all; `fates[n]` is that of `workload.jobs[n]`."""

    fates: Sequence[Fate]
    usage: Sequence[Usage]


class Replay:
    """One history under one policy. For one use."""

    def __init__(
        self,
        workload: Workload,
        rules: Rules,
        local: LocalSite,
        sites: Sequence[RemoteSite],
        foresight: Foresight,
        *,
        is_history: bool,
        counted_from: int,
        late_every_s: float,
    ) -> None:
        """Prepare.

        Args:
            workload: the jobs.
            rules: of the policy.
            local: where jobs wait that stay.
            sites: where the others go.
            foresight: says which would wait too long.
            is_history: whether `local` is the history itself, in which every job stayed: those that the policy sends
                away have their starts and ends there all the same.
            counted_from: of jobs before this one nobody wants to know whether they were diverted needlessly.
            late_every_s: from one look at the jobs that wait to the next; infinite: there is none.
        """
        self._workload = workload
        self._rules = rules
        self._local = local
        self._remote = RemoteSites(sites, rules.policy)
        self._foresight = foresight
        self._is_history = is_history
        self._counted_from = counted_from
        self._late = LateLooks(late_every_s)
        self._now_s = workload.start_s
        self._chance = random.Random(_SEED)  # noqa: S311 - no secret
        self._fates: list[Fate] = []

    def run(self, on_progress: OnProgress) -> Played:
        """Play it to the end of the last job."""
        for job in self._workload.jobs:
            self._advance(job.at_s)
            self._fates.append(self._decide(job))
            self._place(job, self._fates[-1])
            if job.key % _TELL_EVERY == 0:
                on_progress(job.key)
        self._advance(math.inf)
        for fate in self._fates:
            if fate.site is None:
                fate.would_exceed = fate.waits_too_long
        on_progress(len(self._fates))
        return Played(self._fates, self._remote.usage)

    def _advance(self, to_s: float) -> None:
        """Let happen what happens until then, with a look at those who wait whenever it is time for one."""
        while (look_s := self._late.next_s(self._now_s)) <= to_s and math.isfinite(look_s):
            self._play(look_s)
            self._look(look_s)
        self._play(to_s)

    def _play(self, to_s: float) -> None:
        while (at_s := self._local.next_change_s) <= to_s and math.isfinite(at_s):
            for change in self._local.step():
                self._note(change)
        for key, start_s in self._remote.advance(to_s):
            self._start_away(self._workload.jobs[key], self._fates[key], start_s)
        self._now_s = to_s

    def _note(self, change: Change) -> None:
        """Take note of a start or end at home."""
        job, fate = self._workload.jobs[change.key], self._fates[change.key]
        self._foresight.changed(job, change)
        if change.has_started:
            self._late.discard(change.key)
            if fate.site is None:
                fate.wait_s = change.at_s - job.at_s

    def _decide(self, job: ReplayedJob) -> Fate:
        """Say where the job goes, asking in the router's order but for the site: that is asked of each, to know it."""
        policy, threshold_s = self._rules.policy, self._rules.policy.wait_s(job.past.partition)
        if reason := self._rules.why_kept(job.past):
            return Fate(threshold_s, reason)
        is_forced = policy.mode is Mode.ALWAYS
        site, refusal = self._remote.choose(job, job.at_s, is_forced=is_forced)
        would_exceed = is_forced or self._foresight.would_exceed(job, threshold_s)
        fate = Fate(threshold_s, refusal, might_go=site is not None)
        if not would_exceed:
            fate.reason = "wait_unknown" if would_exceed is None else "wait_below_threshold"
        elif site is not None:
            self._send(job, fate, site)
        if not fate.is_chosen and fate.reason != _EXPLORE:
            self._late.add(job)
        return fate

    def _send(self, job: ReplayedJob, fate: Fate, site: RemoteSite) -> None:
        """Note that the job goes to the site, if neither the mode nor the lot keeps it."""
        policy = self._rules.policy
        is_forced = policy.mode is Mode.ALWAYS
        is_drawn = not is_forced and policy.mode is not Mode.SHADOW
        if is_drawn and self._chance.random() < policy.explore(job.past.partition):
            fate.reason = _EXPLORE
            return
        reason = "mode_always" if is_forced else "wait_above_threshold"
        fate.chosen, fate.site, fate.reason = site, site, reason
        if policy.mode is Mode.SHADOW:
            fate.site, fate.reason = None, f"shadow_{reason}"

    def _look(self, now_s: float) -> None:
        """Look at those who wait, and let go whom a site can take now, the worst outlook first."""
        if not self._remote.has_room:
            return
        jobs, policy = self._workload.jobs, self._rules.policy
        views = self._remote.views()
        for key in self._late.candidates(now_s, policy, views, self._outlook):
            job, fate = jobs[key], self._fates[key]
            # It may have started in the place of the one before.
            if math.isnan(fate.wait_s) and (site := self._remote.choose(job, now_s, is_forced=False)[0]) is not None:
                self._late.discard(key)
                fate.might_go = True
                self._send(job, fate, site)
                fate.is_late = fate.is_chosen
                self._move(job, fate, now_s)

    def _outlook(self, key: int, now_s: float) -> WaitEstimate | None:
        return self._foresight.outlook(self._workload.jobs[key], now_s)

    def _place(self, job: ReplayedJob, fate: Fate) -> None:
        if fate.site is not None:
            if job.key >= self._counted_from:
                fate.would_exceed = self._local.wait_s(job, fate.threshold_s) > fate.threshold_s
            self._go_away(job, fate, fate.site, job.at_s)
            if not self._is_history:
                return
        self._foresight.submitted(job)
        if self._local.submit(job):
            self._note(Change(job.at_s, job.key, has_started=True))

    def _move(self, job: ReplayedJob, fate: Fate, now_s: float) -> None:
        """Let a job that waits at home go to its site, if it has one."""
        if fate.site is None:
            return
        left_s = fate.threshold_s - (now_s - job.at_s)
        if job.key >= self._counted_from:
            fate.would_exceed = left_s < 0 or self._local.rest_s(job, now_s, left_s) > left_s
        self._go_away(job, fate, fate.site, now_s)
        if not self._is_history:
            self._foresight.withdrawn(job, now_s)
            for change in self._local.withdraw(job, now_s):
                self._note(change)

    def _go_away(self, job: ReplayedJob, fate: Fate, site: RemoteSite, now_s: float) -> None:
        if self._remote.submit(site, job, now_s):
            self._start_away(job, fate, now_s)

    def _start_away(self, job: ReplayedJob, fate: Fate, start_s: float) -> None:
        fate.wait_s = start_s - job.at_s + (fate.site.overhead_s if fate.site else 0.0)
