"""The last jobs with what was known of them at their submission: what there is to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait.learner import Vector
from overspill_sidecar.wait.outlook import GRID_S

#: So many of the last submissions are kept: 10 MB.
ROOM = 15_000


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Jobs to fit trees to.

    Attributes:
        features: one row for each job, in order of submission.
        wait_s: how long it waited, or has waited so far.
        is_over: whether its wait is over; else only what it exceeds is known.
    """

    features: NDArray[np.float32]
    wait_s: Vector
    is_over: NDArray[np.bool_]


class Samples:
    """A ring. A sample has a number that is never given again; the number of one that fell out is not known."""

    __slots__ = ("features", "forest", "learned", "start_s", "submit_s", "taken")

    def __init__(self, features: int, room: int = ROOM) -> None:
        self.taken = 0
        self.features: NDArray[np.float32] = np.zeros((room, features), np.float32)
        #: Logits at the submission; NaN where there were no trees.
        self.learned: NDArray[np.float32] = np.zeros((room, len(GRID_S)), np.float32)
        self.forest: NDArray[np.float32] = np.zeros((room, len(GRID_S)), np.float32)
        self.submit_s: Vector = np.zeros(room)
        #: NaN while it waits; infinite if it left without starting.
        self.start_s: Vector = np.zeros(room)

    def add(self, features: Vector, learned: Vector, forest: Vector | None, submit_s: float) -> int:
        """Take a sample and return its number."""
        slot = self.taken % len(self.submit_s)
        self.features[slot] = features
        self.learned[slot] = learned
        self.forest[slot] = np.nan if forest is None else forest
        self.submit_s[slot] = submit_s
        self.start_s[slot] = np.nan
        self.taken += 1
        return self.taken - 1

    def slot_of(self, number: int) -> int | None:
        """Return where the sample is; None if newer ones have taken its place."""
        room = len(self.submit_s)
        return number % room if number >= self.taken - room else None

    def opinions(self, slot: int) -> tuple[Vector, Vector, Vector | None]:
        """Return the features of a sample, and the logits that were given at its submission: learned, and trees'."""
        forest = self.forest[slot].astype(np.float64)
        is_given = not np.isnan(forest[0])
        return (
            self.features[slot].astype(np.float64),
            self.learned[slot].astype(np.float64),
            forest if is_given else None,
        )

    def ended(self, number: int, start_s: float) -> None:
        """Note when a job started; infinity: never."""
        slot = self.slot_of(number)
        if slot is not None:
            self.start_s[slot] = start_s

    def training_set(self, now_s: float) -> TrainingSet:
        """Return a copy of what is known by now; jobs that left without starting are not among it."""
        room = len(self.submit_s)
        first = max(0, self.taken - room)
        slots = np.arange(first, self.taken) % room
        slots = slots[~np.isinf(self.start_s[slots])]
        start_s = self.start_s[slots]
        is_over = ~np.isnan(start_s)
        wait_s = np.where(is_over, start_s, now_s) - self.submit_s[slots]
        return TrainingSet(self.features[slots], wait_s, is_over)
