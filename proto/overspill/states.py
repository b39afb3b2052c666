"""States of a run, the transitions between them, and how runs end: one table for both sides."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RunState(StrEnum):
    """Where a run is. Names are those of `overspill.v1.RunState` without the prefix."""

    ACCEPTED = "ACCEPTED"
    STAGING_IN = "STAGING_IN"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STAGING_OUT = "STAGING_OUT"
    ENDED = "ENDED"

    @property
    def is_terminal(self) -> bool:
        return self is RunState.ENDED


class Outcome(StrEnum):
    """How a run ended. Names are those of `overspill.v1.RunOutcome` without the prefix."""

    COMPLETED = "COMPLETED"
    SIGNALED = "SIGNALED"
    TIMEOUT = "TIMEOUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    CANCELLED = "CANCELLED"
    NODE_FAIL = "NODE_FAIL"
    REJECTED = "REJECTED"
    LOST = "LOST"


#: Reason of a NODE_FAIL that is neither end's fault: each of them ends the run by itself, and Slurm may start it again.
HOME_LEASE_OVER: Final = "the cluster and the site heard nothing of each other for longer than the lease"

#: From each state, where a run may go. A run can end from anywhere but only once: ENDED leads nowhere. Stages may be
#: passed over (no inputs, a backend without a queue) but never gone back to.
TRANSITIONS: Final[dict[RunState, frozenset[RunState]]] = {
    RunState.ACCEPTED: frozenset({RunState.STAGING_IN, RunState.QUEUED, RunState.ENDED}),
    RunState.STAGING_IN: frozenset({RunState.QUEUED, RunState.ENDED}),
    RunState.QUEUED: frozenset({RunState.RUNNING, RunState.STAGING_OUT, RunState.ENDED}),
    RunState.RUNNING: frozenset({RunState.SUSPENDED, RunState.STAGING_OUT, RunState.ENDED}),
    RunState.SUSPENDED: frozenset({RunState.RUNNING, RunState.STAGING_OUT, RunState.ENDED}),
    RunState.STAGING_OUT: frozenset({RunState.ENDED}),
    RunState.ENDED: frozenset(),
}


def is_allowed(current: RunState, following: RunState) -> bool:
    """Tell whether a run in `current` may go to `following`. Staying is not a transition."""
    return following in TRANSITIONS[current]
