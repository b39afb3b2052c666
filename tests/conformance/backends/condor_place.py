"""`Place` of an HTCondor pool, for the suite and for the back end's own bad days."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import htcondor2

from overspill.states import Outcome
from overspill_agent.backends.base import Account, Backend, Image
from overspill_agent.backends.htcondor import HtcondorBackend, HtcondorSite
from overspill_agent.backends.htcondor.site import Limits
from overspill_agent.config import DEFAULT_RUNNER
from overspill_agent.runs import Seen
from tests.conformance.backends.dying import Countdown
from tests.conformance.backends.place import Expectations, marked_processes
from tests.conformance.backends.site import LEASE_S
from tests.rig import condor
from tests.rig.condor import EXECUTE_POINTS
from tests.rig.condor_host import CondorHost


class CondorPlace:
    """`Place` of a pool: of its vanilla universe, unless it is given an image."""

    account = Account(name="alice", uid=2001, gid=2001, groups=(2001,), home="/home/alice")
    listen = "0.0.0.0"  # noqa: S104 - of the pool's own network
    agent_host = condor.HOST_ADDRESS
    image: Image | None = None
    unknown_image = Image("missing", "missing:1", "/usr/bin/python3")
    expects = Expectations(
        gpus=len(EXECUTE_POINTS) * condor.GPUS,
        most_cpus_for_one=2.0,
        # The machines' policy: whatever of the job takes it, the job is held.
        childs_memory=Outcome.OUT_OF_MEMORY,
        lost=Seen.LOST,
    )

    def __init__(self, host: CondorHost, directory: Path, **other: Any) -> None:
        """Take a pool; `other` are fields of the site that are not to be as usual."""
        self._host = host
        site = HtcondorSite(
            collector=condor.COLLECTOR,
            schedd=condor.SCHEDD,
            token_directory=host.pool.tokens,
            name="conformance",
            staging=directory / "staging",
            universe="docker",
            python=Path("/usr/bin/python3"),
            runner=DEFAULT_RUNNER,
            images_attribute=condor.IMAGES_ATTRIBUTE,
            limits=Limits(job_lease_s=20, fence_s=LEASE_S + 10),
            poll_s=1.0,
        )
        self._site = replace(site, **other)

    def backend(self) -> Backend:
        return HtcondorBackend(self._site)

    @contextmanager
    def dying_at(self, step: int) -> Iterator[Countdown]:
        """Have the agent die before or after whatever it asks of the schedd."""
        countdown = Countdown(step)
        own = htcondor2.Schedd
        htcondor2.Schedd = _mortal(own, countdown)
        try:
            yield countdown
        finally:
            htcondor2.Schedd = own

    def processes(self, run_id: str) -> int:
        return marked_processes(run_id)

    async def lose_machine(self) -> None:
        self._host.pool.each(EXECUTE_POINTS, self._host.pool.stop)

    async def regain_machine(self) -> None:
        self._host.pool.each(EXECUTE_POINTS, self._host.pool.bring_back)

    @asynccontextmanager
    async def out_of_sight(self) -> AsyncIterator[None]:
        self._host.pool.stop_schedd()
        try:
            await asyncio.sleep(4 * self._site.poll_s)  # until what was seen before is too old to be believed
            yield
        finally:
            self._host.pool.start_schedd()

    async def leftovers(self) -> list[str]:
        mine = 'OverspillAgent == "conformance" && OverspillForgotten =!= true'
        jobs = self._host.pool.tool("condor_q", "-all", "-constraint", mine, "-af", "OverspillRun")
        return [*jobs.split(), *self._host.pool.job_containers()]


def _mortal(schedd: Any, countdown: Countdown) -> Any:
    """Return the class of schedds with which the agent takes a step before and after each change that it asks for."""

    class MortalSchedd(schedd):  # type: ignore[misc]
        pass

    def mortal(name: str) -> Any:
        def verb(self: Any, *arguments: Any, **options: Any) -> Any:
            countdown.take()
            result = getattr(schedd, name)(self, *arguments, **options)
            countdown.take()
            return result

        return verb

    for name in ("submit", "spool", "act", "edit"):
        setattr(MortalSchedd, name, mortal(name))
    return MortalSchedd
