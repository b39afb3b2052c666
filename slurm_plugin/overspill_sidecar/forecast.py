"""How long jobs of this cluster wait: a model that learns while the router runs, and outlives it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from overspill.certificates import write_file
from overspill.errors import OverspillError, UnavailableError
from overspill_sidecar.cluster import Snapshot
from overspill_sidecar.subprocesses import run_raw
from overspill_sidecar.wait import LearnedModel, OnlineModel, PlanModel, WaitModel, trees
from overspill_sidecar.wait.fitting import fit_apart
from overspill_sidecar.wait.following import Following
from overspill_sidecar.wait.forest import Forest
from overspill_sidecar.wait.learned import Said, Submitted, forget_all_but
from overspill_sidecar.wait.samples import TrainingSet
from overspill_sidecar.wait.state import dump, load
from overspill_sidecar.wait.turns import Turns

_log = structlog.get_logger(__name__)

_TICK_S = 10.0
SAVE_EVERY_S = 600.0
#: The past that a model which is new lives through, and how long it may take to.
_PAST = "now-14days"
_LEARN_DEADLINE_S = 900.0


class Forecast:
    """Follows the snapshots. `model_of` is called in a thread, the rest in the event loop's.

    Two things are held for two reasons. A turn is taken for a single event and for a single question, so that the model
    is never asked while it is half changed. `_keeping` is held for as long as nobody else may change the model: while a
    snapshot is taken in, and while the model is saved. Who only asks it never waits for that.
    """

    def __init__(
        self,
        path: Path,
        overspill_partitions: Collection[str],
        enough_jobs: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take up what an earlier router has learned.

        Args:
            path: where that is kept.
            overspill_partitions: whose jobs wait for a site, and are never learned from.
            enough_jobs: from so many jobs on the learned model is asked; before, requested time limits say more.
            clock: Unix time.
        """
        self._path = path
        self._overspill = overspill_partitions
        self.enough_jobs = enough_jobs
        self._clock = clock
        self._turns = Turns()
        self._keeping = threading.Lock()
        #: What was said of pending jobs by the model that is followed.
        self._said: Said = {}
        #: What was submitted of late.
        self._submitted: Submitted = {}
        model, why_new = load(path, cpus=1)
        self._following = Following(model, overspill_partitions, self._turns)
        #: One that was stopped before it had lived through the past does so now.
        self._is_new = self.jobs < enough_jobs
        self._successor: OnlineModel | None = None
        self._has_past = False
        _log.info(
            "wait model", action="wait_model_loaded", jobs=self.jobs, why_new=why_new, trees=trees.are_available()
        )

    @property
    def jobs(self) -> int:
        """How many jobs the model has learned from, or learns from."""
        return self._following.model.samples.taken

    def model_of(self, snapshot: Snapshot) -> WaitModel:
        """Learn what has happened since the last snapshot, and return what answers until the next one."""
        self._has_past = snapshot.config.has_slurmdbd
        with self._keeping:
            if self._successor is not None:
                self._follow(self._successor)
                self._successor = None
            try:
                self._following.take(snapshot)
            except Exception:  # noqa: BLE001 - logged; without a picture neither router nor relay would go on
                _log.exception("wait model has lost its way and begins anew", action="wait_model_broken")
                self._follow(OnlineModel(cpus=1))
        if self.jobs < self.enough_jobs:
            return PlanModel(snapshot)
        users = {job.user_id: job.user_name for job in snapshot.jobs}
        forget_all_but(snapshot.jobs, self._said)
        model = LearnedModel(
            self._following, self._turns, users, self._clock, said=self._said, submitted=self._submitted
        )
        model.prepare()
        return model

    def _follow(self, model: OnlineModel) -> None:
        self._following = Following(model, self._overspill, self._turns)
        self._said = {}

    async def run(self) -> None:
        """Live through the past if nothing is known yet; then keep the model fitted and saved, until cancelled."""
        saved_at = time.monotonic()
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                try:
                    await self._look_after()
                    if time.monotonic() - saved_at >= SAVE_EVERY_S:
                        saved_at = time.monotonic()
                        await asyncio.to_thread(self._save)
                except Exception:  # noqa: BLE001 - the loop's edge; logged with its traceback
                    _log.exception("looking after the wait model failed", action="wait_model_failed")
        finally:
            self._save()

    async def _look_after(self) -> None:
        if self._is_new and self._has_past:
            self._is_new = False
            await self._learn_from_the_past()
        await self._fit_trees()

    async def _learn_from_the_past(self) -> None:
        """Have a process of its own make a model of what slurmdbd remembers: that takes minutes of a CPU."""
        path = self._path.with_name(f"{self._path.name}.past")
        argv = ["nice", "-n", "19", sys.executable, "-m", "overspill_sidecar", "learn"]
        argv += ["--since", _PAST, "--output", str(path)]
        for partition in self._overspill:
            argv += ["--not-from", partition]
        try:
            output = await run_raw(argv, _LEARN_DEADLINE_S)
        except OverspillError as error:
            _log.warning("the past teaches nothing", action="wait_model_past", reason=error.reason)
            return
        model, reason = await asyncio.to_thread(load, path, 1)
        path.unlink(missing_ok=True)
        if output.status != 0 or reason:
            said = output.stderr.decode("utf-8", "replace").strip()
            _log.warning("the past teaches nothing", action="wait_model_past", reason=said or reason)
            return
        known, self_taught = model.samples.taken, self.jobs
        _log.info("wait model has lived through the past", action="wait_model_past", jobs=known, before=self_taught)
        if known > self_taught:
            self._successor = model

    async def _fit_trees(self) -> None:
        """Fit trees if there is something new to fit them to."""
        model = self._following.model
        if not (trees.are_available() and model.wants_trees()):
            return
        try:
            forest = await fit_apart(await asyncio.to_thread(self._training_set, model))
        except UnavailableError as error:
            _log.warning("trees are not fitted", action="wait_model_fit_failed", reason=error.reason)
            return
        await asyncio.to_thread(self._take_trees, model, forest)
        _log.info("trees are fitted", action="wait_model_fitted", jobs=model.fitted_at)

    def _take_trees(self, model: OnlineModel, forest: Forest) -> None:
        with self._turns:
            model.take_trees(forest)

    def _training_set(self, model: OnlineModel) -> TrainingSet:
        with self._keeping:
            return model.training_set(self._clock())

    def _save(self) -> None:
        try:
            with self._keeping:
                state = dump(self._following.model)
            write_file(self._path, state)
        except OSError as error:
            _log.warning("wait model is not saved", action="wait_model_save_failed", reason=error.strerror)
