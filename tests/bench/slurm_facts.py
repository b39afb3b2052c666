"""What Slurm's own knowledge is worth to the wait model, where waits come from it: told it, and told nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from overspill_sidecar.cluster import Snapshot
from overspill_sidecar.wait import OnlineModel, QueuedJob, SlurmFacts, WaitingJob
from overspill_sidecar.wait.following import Following
from overspill_sidecar.wait.waiting import NO_FACTS
from tests.bench.bench import Bench
from tests.bench.figure import Figure
from tests.bench.site_with_priorities import Work, site_of, submissions

_JOBS, _UNSCORED = 5_000, 1_000
_LOOK_S, _THRESHOLD_S = 30.0, 1800.0
_SEEDS = (1, 2)


def measure(bench: Bench) -> Iterator[Figure]:
    """Ask at each submission for P(wait > 30 min), and compare with the wait that the job then has."""
    for seed in _SEEDS:
        bench.say(f"{_JOBS} jobs of a site with priorities and limits, seed {seed}")
        knowing, ignorant = _lived(seed)
        against = "the same model, told nothing of it"
        pairs = (
            ("F1", knowing.f1, ignorant.f1),
            ("AUC", knowing.auc, ignorant.auc),
            ("Brier skill", knowing.skill, ignorant.skill),
        )
        for name, ours, theirs in pairs:
            what = f"{name} at 30 minutes, {knowing.share:.0%} wait longer, seed {seed}"
            yield Figure(what, "", ours, theirs, against, samples=len(knowing.said))


class _Ignorant(Following):
    """Follows the queue as before, but passes on nothing of what only Slurm knows."""

    def facts_for(self, job: QueuedJob) -> SlurmFacts:  # noqa: ARG002 - the other's
        return NO_FACTS


@dataclass(slots=True)
class _Score:
    """What was said of each job, and whether it was so."""

    following: Following
    said: list[float] = field(default_factory=list)
    was: list[bool] = field(default_factory=list)

    def ask(self, work: Work) -> None:
        job = work.record
        asked = QueuedJob("batch", job.cpus, job.time_limit_s, job.user_id, "hpc", job.qos, 1)
        waiting = WaitingJob(
            key="",
            submit_s=float(work.submit_s),
            cpus=job.cpus,
            time_limit_s=job.time_limit_s,
            user=job.user_name,
            partition="batch",
            account="hpc",
            qos=job.qos,
            nodes=1,
            facts=self.following.facts_for(asked),
        )
        self.said.append(self.following.model.predict(waiting, float(work.submit_s)).p_exceeds(_THRESHOLD_S))

    def settle(self, waits_s: list[float]) -> None:
        """Keep what is scored: not the first jobs."""
        self.said = self.said[_UNSCORED:]
        self.was = [wait_s > _THRESHOLD_S for wait_s in waits_s[_UNSCORED:]]

    @property
    def share(self) -> float:
        return sum(self.was) / len(self.was)

    @property
    def f1(self) -> float:
        hits = sum(was for said, was in zip(self.said, self.was, strict=True) if said > 0.5)
        return 2 * hits / (sum(said > 0.5 for said in self.said) + sum(self.was))

    @property
    def auc(self) -> float:
        ranked = sorted(zip(self.said, self.was, strict=True))
        ranks = sum(rank for rank, (_, was) in enumerate(ranked, start=1) if was)
        yes = sum(self.was)
        return (ranks - yes * (yes + 1) / 2) / (yes * (len(ranked) - yes))

    @property
    def skill(self) -> float:
        share = self.share
        errors = sum((said - was) ** 2 for said, was in zip(self.said, self.was, strict=True))
        return 1 - errors / (len(self.said) * share * (1 - share))


def _lived(seed: int) -> tuple[_Score, _Score]:
    """Return what a model that is told all and one that is told nothing have said of the same jobs."""
    site = site_of(seed)
    scores = _Score(Following(OnlineModel(1), ())), _Score(_Ignorant(OnlineModel(1), ()))
    done: list[Work] = []
    look_s = site.now_s
    for work in submissions(site, _JOBS, seed):
        while look_s <= work.submit_s:
            site.advance(look_s)
            _look(scores, site.snapshot())
            look_s += _LOOK_S * random.Random(int(look_s)).choice((1, 1, 2))  # noqa: S311 - looks are late at times
        site.advance(float(work.submit_s))
        for score in scores:
            score.ask(work)
        site.submit(work)
        done.append(work)
    site.advance(site.now_s + 10**9)
    waits_s = [float((work.record.start_time_s or 0) - work.submit_s) for work in done]
    for score in scores:
        score.settle(waits_s)
    return scores


def _look(scores: tuple[_Score, _Score], snapshot: Snapshot) -> None:
    for score in scores:
        score.following.take(snapshot)
