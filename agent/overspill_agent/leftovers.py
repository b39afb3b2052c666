"""What the back end keeps of runs that the store does not know: stopped and forgotten, with care.

An agent whose store was emptied, or that was pointed at another's directory, knows none of the runs there. So:

* A run is left alone for as long as its runner's lease takes. Nobody answers the runner of an unknown run: by then it
  has stopped its job by itself, and nothing that anybody waits for is killed here.
* While the back end keeps more unknown runs than the store remembers runs of all times, nothing is touched: then it is
  the store that is wrong. The log says so, and what to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from overspill.errors import OverspillError, UnavailableError
from overspill_agent import metrics
from overspill_agent.backends.base import Backend
from overspill_agent.registry import Registry
from overspill_agent.runs import Run, Seen

log = structlog.get_logger(__name__)

_INTERVAL_S = 60.0
#: From the end of a runner's lease until nothing of its job can be alive: it kills, and kills again.
_MARGIN_S = 30.0
#: How often a run that is being killed is looked at.
_POLL_S = 0.5
_MOST_POLLS = 120
#: Nobody knows which attempt an unknown run is at; few come further.
_ATTEMPTS = range(1, 21)


class Leftovers:
    """Compares the back end with the store, at the start and every minute."""

    def __init__(self, registry: Registry, backend: Backend, lease_s: float) -> None:
        """`lease_s` is the runners'."""
        self._registry = registry
        self._backend = backend
        self._grace_s = lease_s + _MARGIN_S
        self._unknown_since: dict[str, float] = {}
        self._is_store_doubted = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.step(time.monotonic())
            except OverspillError as error:
                log.warning("leftovers are not looked at", action="leftovers_failed", reason=error.reason)
            except Exception:
                log.exception("leftovers are not looked at", action="leftovers_failed")
            await asyncio.sleep(_INTERVAL_S)

    async def step(self, now: float) -> list[str]:
        """Look once; return the runs that were forgotten. `now` is monotonic."""
        unknown = [run_id for run_id in sorted(await self._backend.run_ids()) if not await self._is_known(run_id)]
        self._unknown_since = {run_id: self._unknown_since.get(run_id, now) for run_id in unknown}
        if await self._is_store_wrong(len(unknown)):
            return []
        due = [run_id for run_id in unknown if now - self._unknown_since[run_id] >= self._grace_s]
        return [run_id for run_id in due if await self._is_removed(run_id)]

    async def _is_removed(self, run_id: str) -> bool:
        """Try to remove one run. Those after it have their turn, too, if the back end does not let it go."""
        try:
            return await self._remove(run_id)
        except OverspillError as error:
            log.warning("unknown run is kept", action="leftover_failed", run_id=run_id, reason=error.reason)
            return False

    async def _is_known(self, run_id: str) -> bool:
        return self._registry.find_live(run_id) is not None or await self._registry.store.find(run_id) is not None

    async def _is_store_wrong(self, unknown: int) -> bool:
        remembered = await self._registry.store.count() if unknown else 0
        is_wrong = unknown > remembered
        if is_wrong and not self._is_store_doubted:
            log.error(
                "the store knows fewer runs than the back end has that it does not know: none of these is touched;"
                " restore the store, or end them: overspill-agent kill --unknown",
                action="leftovers_kept",
                unknown=unknown,
                remembered=remembered,
            )
        self._is_store_doubted = is_wrong
        return is_wrong

    async def _remove(self, run_id: str) -> bool:
        """Stop and forget one run; False if something of it lives on: the next look tries again."""
        if await stop_unknown(self._backend, run_id):
            log.warning("unknown run is stopped", action="leftover_stopped", run_id=run_id)
            return False
        await self._backend.forget(run_id)
        metrics.LEFTOVERS.inc()
        log.warning("unknown run is forgotten", action="leftover_forgotten", run_id=run_id)
        return True


async def forget_unknown(backend: Backend, read_known: Callable[[], Collection[Run]]) -> list[str]:
    """Stop what the back end keeps of runs that are not known, wait until nothing of it lives, and forget it.

    What is known is read last: the agent may be at work, and stores a run before it starts it.

    Raises:
        UnavailableError: one of them lives on.
    """
    await backend.open()
    try:
        kept = await backend.run_ids()
        unknown = sorted(kept - {run.run_id for run in read_known()})
        for run_id in unknown:
            await _stop_and_wait(backend, run_id)
            await backend.forget(run_id)
        return unknown
    finally:
        await backend.close()


async def _stop_and_wait(backend: Backend, run_id: str) -> None:
    for _ in range(_MOST_POLLS):
        if not await stop_unknown(backend, run_id):
            return
        await asyncio.sleep(_POLL_S)
    raise UnavailableError(f"run {run_id} is being stopped, and lives; try again: overspill-agent kill --unknown")


async def stop_unknown(backend: Backend, run_id: str) -> bool:
    """Stop every attempt of a run that nobody knows; tell whether one lives, or may live."""
    living = [number for number in _ATTEMPTS if await _may_live(backend, run_id, number)]
    for attempt in living:
        await backend.stop(run_id, attempt)
    return bool(living)


async def _may_live(backend: Backend, run_id: str, attempt: int) -> bool:
    return (await backend.observe(run_id, attempt)).seen in {Seen.ALIVE, Seen.LOST}
