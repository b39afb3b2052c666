"""Runs killed at the operator's word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from overspill.errors import OverspillError
from overspill_agent.backends.base import Backend
from overspill_agent.runs import Run, Seen


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of one run; `problem` says why it may live, and is empty if nothing of it does."""

    run_id: str
    was_alive: bool = True
    problem: str = ""


async def kill_runs(backend: Backend, runs: Iterable[Run]) -> list[Killed]:
    """Stop each of the runs, whatever becomes of the others. Opens the back end and closes it.

    Raises:
        AdminError: the back end can never work as it is configured.
    """
    await backend.open()
    try:
        return [await _kill(backend, run) for run in runs]
    finally:
        await backend.close()


async def _kill(backend: Backend, run: Run) -> Killed:
    try:
        sighting = await backend.observe(run.run_id, run.attempt)
        await backend.stop(run.run_id, run.attempt)
    except OverspillError as error:
        return Killed(run.run_id, problem=error.reason)
    return Killed(run.run_id, was_alive=sighting.seen in {Seen.ALIVE, Seen.LOST})
