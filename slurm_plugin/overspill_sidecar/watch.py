"""Keeping Slurm's state in memory: asked at intervals, prepared in a thread, swapped in whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from overspill.errors import OverspillError, UnavailableError
from overspill_sidecar import metrics
from overspill_sidecar.cluster import ClusterConfig, Snapshot
from overspill_sidecar.decision.capacity import rooms_in
from overspill_sidecar.decision.claims import VainClaims
from overspill_sidecar.decision.situation import Queue
from overspill_sidecar.policy import (
    Policy,
    Problem,
    parse_policy,
    unknown_accounts,
    unknown_partitions,
    unknown_users,
    with_last_good,
)
from overspill_sidecar.records.tally import Tally
from overspill_sidecar.slurm import ClusterView
from overspill_sidecar.users import user_ids
from overspill_sidecar.wait import PlanModel, WaitModel

_log = structlog.get_logger(__name__)

#: A queue that was not seen for this many intervals is not known any more.
_STALE_AFTER_INTERVALS = 4
#: How long it may take until a user whom a word names has a new number, or is known at all.
_USERS_LIVE_S, _UNKNOWN_USERS_LIVE_S = 300.0, 10.0
#: A Slurm that gives no answer is asked again after this at the latest.
_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One snapshot and everything that was prepared from it."""

    snapshot: Snapshot
    queue: Queue
    model: WaitModel
    #: Decisions whose jobs the snapshot shows, or which are over.
    seen_decisions: frozenset[str]


class ClusterWatch:
    """Holds the newest picture of the cluster and the policy in force.

    A failed query changes nothing but the picture's age: the policy stays, and after a few intervals `fresh` is None.
    """

    def __init__(
        self,
        view: ClusterView,
        refresh_s: float,
        tally: Tally | None = None,
        model_of: Callable[[Snapshot], WaitModel] = PlanModel,
    ) -> None:
        """Know nothing yet.

        Args:
            view: Slurm.
            refresh_s: seconds between two looks.
            tally: remembers what accounts have had; without one nobody knows.
            model_of: tells from a snapshot how long jobs wait; called in a thread, never twice at once.
        """
        self._model_of = model_of
        self._view = view
        self._refresh_s = refresh_s
        self._tally = tally
        self._vain_claims = VainClaims()
        self._renewed = asyncio.Event()
        self._is_failing = False
        #: Tells whether somebody waits for jobs which a snapshot asked for at that moment does not show.
        self.misses_jobs: Callable[[Collection[str], float], bool] = lambda _decision_ids, _asked_at: False
        self.picture: Picture | None = None
        self.policy = Policy()
        self.problems: tuple[Problem, ...] = ()
        self.unknown_users: tuple[Problem, ...] = ()
        #: Of the users whom the policy names, as far as this host knows them.
        self.user_ids: Mapping[str, int] = {}
        self._looked_up: frozenset[str] = frozenset()
        self._looked_up_at = float("-inf")

    @property
    def config(self) -> ClusterConfig | None:
        """The cluster's configuration as last seen; it does not go stale."""
        return self.picture.snapshot.config if self.picture else None

    def slurm_cluster(self) -> str | None:
        """Return the cluster's name, None while Slurm has not told it."""
        return self.config.cluster_name if self.config else None

    def fresh(self, now: float) -> Picture | None:
        """Return the picture unless it is too old to decide by."""
        if self.picture is None:
            return None
        age_s = now - self.picture.snapshot.asked_at
        return self.picture if age_s <= max(_STALE_AFTER_INTERVALS * self._refresh_s, 2.0) else None

    async def snapshot_after(self, moment: float) -> Snapshot:
        """Wait for a snapshot none of which is older than `moment` on the monotonic clock."""
        while self.picture is None or self.picture.snapshot.asked_at < moment:
            await self._renewed.wait()
        return self.picture.snapshot

    async def run(self) -> None:
        """Refresh at intervals until cancelled."""
        while True:
            began_at = time.monotonic()
            try:
                await self.refresh()
            except OverspillError as error:
                self._note_failure(error.reason)
            except Exception:  # noqa: BLE001 - the loop's edge; logged with its traceback
                _log.exception("picture of the cluster failed", action="refresh_failed")
            pause_s = min(self._refresh_s, _RETRY_S) if self._is_failing else self._refresh_s
            await asyncio.sleep(max(0.1, pause_s - (time.monotonic() - began_at)))

    async def refresh(self) -> None:
        """Take one snapshot and make it the current one.

        Raises:
            UnavailableError: if Slurm does not answer; everything stays as it was.
        """
        with metrics.SNAPSHOT_SECONDS.time():
            snapshot = await self._view.snapshot()
            over = await self._decisions_over(snapshot)
            picture = await asyncio.to_thread(self._prepare, snapshot, over)
        self._take_policy(snapshot)
        await self._look_up_users()
        self.picture = picture
        if self._is_failing:
            _log.info("slurmctld answers again", action="slurm_reachable")
        self._is_failing = False
        self._renewed.set()
        self._renewed = asyncio.Event()

    async def _decisions_over(self, snapshot: Snapshot) -> Collection[str]:
        """Return the decisions whose jobs are over, if somebody waits for jobs that the snapshot does not show."""
        if not self.misses_jobs(snapshot.decisions, snapshot.asked_at):
            return ()
        try:
            return await self._view.decisions_over()
        except UnavailableError as error:
            _log.debug("jobs that are over are not told", action="over_unknown", reason=error.reason)
            return ()

    def _prepare(self, snapshot: Snapshot, over: Collection[str]) -> Picture:
        return prepare(snapshot, self._tally, self._vain_claims, self._model_of, over)

    def _take_policy(self, snapshot: Snapshot) -> None:
        said, problems = parse_policy(snapshot.config.parameters, self.policy)
        problems += unknown_partitions(said, snapshot.partitions)
        if snapshot.accounting is not None:
            problems += unknown_accounts(said, snapshot.accounting.accounts)
        policy = with_last_good(said, snapshot.partitions, self.policy)
        if policy != self.policy:
            words = {str(key): str(value) for key, value in policy.words.items()}
            _log.info("policy changed", action="policy_changed", words=words)
        for problem in problems:
            if problem not in self.problems:
                _log.warning("policy word ignored", action="policy_word_ignored", problem=str(problem))
        self.policy, self.problems = policy, problems

    async def _look_up_users(self) -> None:
        """Look up the users whom words name, in a thread: a directory service may be slow."""
        now, names = time.monotonic(), self.policy.user_names
        live_s = _UNKNOWN_USERS_LIVE_S if self.unknown_users else _USERS_LIVE_S
        if names == self._looked_up and now - self._looked_up_at < live_s:
            return
        found = await asyncio.to_thread(user_ids, names)
        # A directory service that is away must not let a user out of a list: who was known stays known.
        self.user_ids = {name: number for name, number in self.user_ids.items() if name in names} | found
        self._looked_up, self._looked_up_at = names, now
        known_before, self.unknown_users = self.unknown_users, unknown_users(self.policy, self.user_ids.keys())
        for problem in self.unknown_users:
            if problem not in known_before:
                _log.warning("policy word names nobody", action="policy_user_unknown", problem=str(problem))

    def _note_failure(self, reason: str) -> None:
        if not self._is_failing:
            _log.warning("slurmctld gives no answer", action="slurm_unreachable", reason=reason)
        self._is_failing = True


def prepare(
    snapshot: Snapshot,
    tally: Tally | None = None,
    vain_claims: VainClaims | None = None,
    model_of: Callable[[Snapshot], WaitModel] = PlanModel,
    over: Collection[str] = (),
) -> Picture:
    """Make a picture of a snapshot: not for the event loop.

    Args:
        snapshot: what Slurm said.
        tally: remembers what accounts have had; without one nobody knows.
        vain_claims: remembers who waits in vain. One thread at a time may use either.
        model_of: tells how long jobs wait.
        over: decisions whose jobs are over.
    """
    default = snapshot.default_partition
    return Picture(
        snapshot=snapshot,
        queue=Queue(
            snapshot.config,
            default.name if default else "",
            rooms_in(snapshot, vain_claims.observe(snapshot) if vain_claims else ()),
            snapshot.accounting,
            snapshot.is_federated,
            tally.observe(snapshot) if tally else None,
        ),
        model=model_of(snapshot),
        seen_decisions=snapshot.decisions.union(over),
    )
