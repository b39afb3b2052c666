"""The learned wait model: follows the queue by its events, learns from each start and from each wait that goes on."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from overspill_sidecar.wait.blend import Blend
from overspill_sidecar.wait.bound import AdaptiveShare
from overspill_sidecar.wait.features import NAMES, features_of, played
from overspill_sidecar.wait.forest import Forest
from overspill_sidecar.wait.learner import Learner, Vector, sigmoid
from overspill_sidecar.wait.outlook import GRID_S, Outlook
from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.samples import Samples, TrainingSet
from overspill_sidecar.wait.tracked import Tracked
from overspill_sidecar.wait.waiting import WaitingJob

#: A job that is first heard of later than this after its submission teaches nothing: the queue it met is not known.
_FRESH_S = 120.0
#: Trees are fitted first after so many jobs, and anew after this share more of them, up to so many.
_FIRST_FIT, _GROWTH, _REFIT = 500, 1.5, 700


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What was thought of a job at one moment."""

    features: Vector
    learned: Vector
    forest: Vector | None
    outlook: Outlook


@dataclass(slots=True, eq=False)
class Waiting:
    """What is to be learnt from a pending job: it has exceeded the first `passed` waits of the grid."""

    job: Tracked
    sample: int
    upper_s: float
    passed: int = 0
    is_bound_judged: bool = False


class OnlineModel:
    """Predicts waits in one cluster. Not thread-safe.

    Events cost a fraction of a millisecond, questions and submissions that were not asked about up to about two: a
    short queue is played forward.

    Times are Unix seconds. Events may come late but not out of order by more than a poll: each is taken to have
    happened when it says. Events about jobs that are not known are passed over, as are repeated ones.
    """

    __slots__ = (
        *("asked", "blend", "bound", "due", "fitted_at", "followed_at_s", "forest"),
        *("learner", "queue", "samples", "waiting"),
    )

    def __init__(self, cpus: int) -> None:
        """Start knowing nothing.

        Args:
            cpus: of the whole cluster.
        """
        self.queue = QueueState(max(1, cpus))
        self.learner = Learner(len(NAMES))
        self.blend = Blend()
        self.bound = AdaptiveShare()
        self.samples = Samples(len(NAMES))
        self.forest: Forest | None = None
        #: Jobs taken into the samples when trees were last asked for.
        self.fitted_at = 0
        #: Moment of the last snapshot that it was brought up to; None: it was never in step with a queue.
        self.followed_at_s: float | None = None
        self.waiting: dict[int | str, Waiting] = {}
        #: When pending jobs pass the next wait of the grid, or their bound: (time, number, key of the job).
        self.due: list[tuple[float, int, int | str]] = []
        #: The last question and its answer: most often the job that was asked about is submitted next.
        self.asked: tuple[WaitingJob, float, _Opinion] | None = None

    def set_cpus(self, cpus: int) -> None:
        """Note how many CPUs the cluster has now."""
        self.queue.cpus = max(1, cpus)

    def outlook_of(self, job: WaitingJob, now_s: float) -> Outlook:
        """Return how long `job` would wait if it were submitted now. Leaves no trace: a save may go on meanwhile."""
        return self._opinion_of(self.queue.look_at(job), job, now_s).outlook

    def predict(self, job: WaitingJob, now_s: float, waited_s: float = 0.0) -> Outlook:
        """Return how long `job` would wait if it were submitted now, or waits if it has waited `waited_s` already."""
        opinion = self._opinion_of(self.queue.look_at(job), job, now_s)
        if waited_s <= 0:
            self.asked = (job, now_s, opinion)
            return opinion.outlook
        outlook = Outlook(opinion.outlook.exceeds, waited_s, 0.0)
        return Outlook(outlook.exceeds, waited_s, outlook.quantile_s(self.bound.share))

    def submitted(self, job: WaitingJob, now_s: float | None = None, *, is_to_teach: bool = True) -> None:
        """Take a job into the queue.

        Args:
            job: not known yet, or nothing happens.
            now_s: when it was first heard of, if that was later than its submission.
            is_to_teach: whether its wait is one to learn from.
        """
        if job.key in self.queue.pending or job.key in self.queue.running:
            return
        now_s = job.submit_s if now_s is None else now_s
        tracked = self.queue.look_at(job)
        is_fresh = is_to_teach and now_s - job.submit_s <= _FRESH_S
        opinion = self._opinion_of(tracked, job, now_s) if is_fresh else None
        self.advance(now_s)
        if opinion is not None:
            self._take_sample(tracked, opinion)
        self.queue.submitted(tracked)
        self.asked = None

    def started(self, key: int | str, at_s: float, key_from_now: int | str | None = None) -> None:
        """Note that a pending job has started, and learn how long it has waited.

        Args:
            key: by which it waited.
            at_s: when it started.
            key_from_now: by which it runs, if that is another one.
        """
        job, waiting = self._leaving(key, at_s)
        if job is None:
            return
        if waiting is not None:
            self._learn(waiting, waiting.passed, len(GRID_S), 0.0)
            self.samples.ended(waiting.sample, at_s)
            if not waiting.is_bound_judged:
                self.bound.learn(has_held=at_s - job.submit_s <= waiting.upper_s)
        self.queue.started(job, max(at_s, job.submit_s), job.key if key_from_now is None else key_from_now)

    def limited(self, key: int | str, *, is_limited: bool) -> None:
        """Note whether a limit of its association or QOS keeps a pending job back now, whatever is free."""
        job = self.queue.pending.get(key)
        if job is not None:
            job.is_limited = is_limited
            self.asked = None

    def ended(self, key: int | str, at_s: float) -> None:
        """Note that a running job has ended. A pending one that ended has left the queue: `removed`."""
        job = self.queue.running.get(key)
        if job is None:
            self.removed(key, at_s)
            return
        self.advance(at_s)
        self.queue.ended(job, at_s)
        self.asked = None

    def removed(self, key: int | str, at_s: float) -> None:
        """Forget a pending job that does not wait here any more: cancelled, diverted, held, or waiting by its own wish.

        How long it would have waited is not known, and not guessed.
        """
        job, waiting = self._leaving(key, at_s)
        if job is None:
            return
        if waiting is not None:
            self.samples.ended(waiting.sample, np.inf)
        self.queue.removed(job)

    def _leaving(self, key: int | str, at_s: float) -> tuple[Tracked | None, Waiting | None]:
        """Come to the moment at which a job leaves the queue; return it, and what is still to be learnt from it."""
        job = self.queue.pending.get(key)
        if job is None:
            return None, None
        self.advance(at_s)
        self.asked = None
        return job, self.waiting.pop(key, None)

    def advance(self, now_s: float) -> None:
        """Learn from the jobs that wait still and have passed a wait of the grid, or their bound, by now."""
        while self.due and self.due[0][0] <= now_s:
            _, sample, key = heapq.heappop(self.due)
            waiting = self.waiting.get(key)
            if waiting is not None and waiting.sample == sample:
                self._pass(waiting, now_s)
                self.asked = None

    def wants_trees(self) -> bool:
        """Tell whether enough jobs have come since trees were last fitted."""
        if not self.fitted_at:
            return self.samples.taken >= _FIRST_FIT
        return self.samples.taken >= min(self.fitted_at * _GROWTH, self.fitted_at + _REFIT)

    def training_set(self, now_s: float) -> TrainingSet:
        """Return what to fit trees to; `wants_trees` is false then until more jobs have come."""
        self.fitted_at = self.samples.taken
        return self.samples.training_set(now_s)

    def take_trees(self, forest: Forest) -> None:
        """Ask these trees, too, from now on."""
        self.forest = forest
        self.asked = None

    def _opinion_of(self, tracked: Tracked, job: WaitingJob, now_s: float) -> _Opinion:
        if self.asked is not None and self.asked[:2] == (job, now_s):
            return self.asked[2]
        features = features_of(tracked, job.nodes, job.facts, self.queue, now_s)
        learned = self.learner.logits(features)
        forest = None if self.forest is None else self.forest.logits(features)
        blended = self.blend.logits((learned, forest, played(features)))
        exceeds = np.minimum.accumulate(sigmoid(blended)).tolist()
        outlook = Outlook(exceeds, 0.0, 0.0)
        return _Opinion(features, learned, forest, Outlook(exceeds, 0.0, outlook.quantile_s(self.bound.share)))

    def _take_sample(self, tracked: Tracked, opinion: _Opinion) -> None:
        self.learner.see(opinion.features)
        sample = self.samples.add(opinion.features, opinion.learned, opinion.forest, tracked.submit_s)
        waiting = self.waiting[tracked.key] = Waiting(tracked, sample, opinion.outlook.upper_s)
        self._await(waiting)

    def _await(self, waiting: Waiting) -> None:
        """Put down when the next thing is learnt from a job that goes on waiting."""
        times = [] if waiting.is_bound_judged else [waiting.upper_s]
        times += GRID_S[waiting.passed : waiting.passed + 1]
        if times:
            heapq.heappush(self.due, (waiting.job.submit_s + min(times), waiting.sample, waiting.job.key))

    def _pass(self, waiting: Waiting, now_s: float) -> None:
        waited_s = now_s - waiting.job.submit_s
        if not waiting.is_bound_judged and waited_s >= waiting.upper_s:
            waiting.is_bound_judged = True
            self.bound.learn(has_held=False)
        passed = waiting.passed
        while passed < len(GRID_S) and waited_s >= GRID_S[passed]:
            passed += 1
        if passed > waiting.passed:
            self._learn(waiting, waiting.passed, passed, 1.0)
            waiting.passed = passed
        self._await(waiting)

    def _learn(self, waiting: Waiting, first: int, last: int, exceeded: float) -> None:
        slot = self.samples.slot_of(waiting.sample)
        if slot is None or first >= last:
            return
        features, learned, forest = self.samples.opinions(slot)
        self.learner.learn(features, first, last, exceeded)
        self.blend.learn((learned, forest, played(features)), first, last, exceeded)
