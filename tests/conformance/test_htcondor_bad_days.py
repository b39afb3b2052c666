"""Bad days of an HTCondor pool: what its operator, its users and its machines do to runs, and what becomes of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overspill.errors import AdminError, TransientError, UnrunnableError
from overspill.states import Outcome
from overspill_agent.backends.base import Account, Demand, Image
from overspill_agent.backends.htcondor.site import Limits, Meaning
from overspill_agent.registry import LiveRun
from overspill_agent.runs import Resources, Seen
from tests.conformance.backends import scripts
from tests.conformance.backends.condor_place import CondorPlace
from tests.conformance.backends.site import SMALL, Site, site_of, until
from tests.conformance.backends.verbs import started, until_seen
from tests.rig.condor import CPUS, Machine, clock_environment
from tests.rig.condor_host import CondorHost

pytestmark = pytest.mark.timeout(300)

#: Several negotiations, in any of which a job that may be matched is.
_NEGOTIATIONS_S = 6.0

Sites = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
def sites(condor_host: CondorHost, tmp_path: Path) -> Sites:
    """Agents at the pool, with other settings than usual."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)

    @asynccontextmanager
    async def at_pool(*, has_loop: bool = True, image: Image | None = None, **other: Any) -> AsyncIterator[Site]:
        place = CondorPlace(condor_host, tmp_path, **other)
        place.image = image
        async with site_of(place, tmp_path, has_loop=has_loop) as site:
            yield site

    return at_pool


def image_of(host: CondorHost, *, python: str = "/usr/bin/python3", reference: str = "") -> Image:
    return Image("mini", reference or host.run_image, python)


def filling() -> Resources:
    """Return what leaves no room beside it on any machine."""
    return Resources(cpus=CPUS, memory_mib=128)


async def job_id(site: Site, live: LiveRun) -> str:
    """Return the run's job, once it has one."""

    async def has_job() -> bool:
        return bool(live.run.remote_id)

    await until("the run has a job", has_job)
    return live.run.remote_id


class TestTheOperator:
    """Who holds, releases and removes jobs by hand."""

    async def test_a_job_held_before_it_starts_waits_and_runs_after_its_release(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites(requirements="false") as site:
            live = await site.accept(scripts.saying("at last"))
            job = await job_id(site, live)
            await until_status(condor_host, job, "1")
            condor_host.pool.tool("condor_hold", job)
            assert (await site.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
            condor_host.pool.tool("condor_qedit", job, "Requirements", "(NumShadowStarts ?: 0) == 0")
            condor_host.pool.tool("condor_release", job)
            ending = await site.ending(live)
            assert ending.outcome is Outcome.COMPLETED
            assert site.output(live) == b"at last\n"

    async def test_a_job_held_for_too_long_goes_home(self, sites: Sites, condor_host: CondorHost) -> None:
        async with sites(requirements="false", limits=Limits(held_within_s=3)) as site:
            live = await site.accept(scripts.saying("never"))
            job = await job_id(site, live)
            await until_status(condor_host, job, "1")
            condor_host.pool.tool("condor_hold", job)
            ending = await site.ending(live)
            assert ending.outcome is Outcome.REJECTED
            assert "held" in ending.reason
            assert site.starts_of(live) == 0

    async def test_a_running_job_that_is_held_has_failed_and_never_runs_again(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites(has_loop=False) as site:
            live = await started(site)
            sighting = await site.backend.observe(live.run.run_id, 1)
            condor_host.pool.tool("condor_hold", sighting.remote_id)
            await until_seen(site, live, Seen.GONE)
            sighting = await site.backend.observe(live.run.run_id, 1)
            assert sighting.verdict is not None
            assert sighting.verdict.outcome is Outcome.NODE_FAIL
            condor_host.pool.tool("condor_release", sighting.remote_id)
            await until_status(condor_host, sighting.remote_id, "1")
            await asyncio.sleep(_NEGOTIATIONS_S)
            assert condor_host.pool.tool("condor_q", sighting.remote_id, "-af", "JobStatus").strip() == "1"
            assert site.starts_of(live) == 1

    @pytest.mark.parametrize(("user", "expected"), [("root", Outcome.NODE_FAIL), ("alice", Outcome.CANCELLED)])
    async def test_who_removes_a_running_job_decides_how_its_run_ends(
        self, sites: Sites, condor_host: CondorHost, user: str, expected: Outcome
    ) -> None:
        async with sites() as site:
            live = await site.accept(scripts.STUBBORN)
            await site.until_said(live, "ready")
            condor_host.pool.tool("condor_rm", await job_id(site, live), user=user)
            ending = await site.ending(live)
            assert ending.outcome is expected
            assert ending.reason
            await site.until_cleaned(live)
            assert site.place.processes(live.run.run_id) == 0

    async def test_a_vacated_job_has_failed_and_is_not_started_again_by_the_pool(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites() as site:
            live = await site.accept(scripts.WAITING)
            await site.until_said(live, "ready")
            condor_host.pool.tool("condor_vacate_job", "-fast", await job_id(site, live))
            ending = await site.ending(live)
            assert ending.outcome is Outcome.NODE_FAIL
            assert site.starts_of(live) == 1


class TestTheAccessPoint:
    """A schedd that is away, and one that does not let the agent."""

    async def test_a_run_that_comes_while_the_schedd_is_away_starts_when_it_is_back(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites() as site:
            condor_host.pool.stop_schedd()
            live = await site.accept(scripts.saying("hello"))
            with pytest.raises(TransientError):
                await site.backend.run_ids()
            condor_host.pool.start_schedd()
            ending = await site.ending(live)
            assert (ending.outcome, site.output(live)) == (Outcome.COMPLETED, b"hello\n")
            assert site.starts_of(live) == 1

    async def test_a_run_outlives_a_schedd_that_is_killed(self, sites: Sites, condor_host: CondorHost) -> None:
        async with sites() as site:
            live = await site.accept(scripts.TALKING)
            await site.until_said(live, "ready")
            condor_host.pool.kill_schedd()
            condor_host.pool.wait_until_ready()
            await site.signal(live, signal.SIGUSR1, "shell")
            await site.until_said(live, "USR1 to the shell")
            assert not live.run.has_ended
            assert site.starts_of(live) == 1

    async def test_a_removal_that_the_schedd_did_not_hear_is_asked_for_again(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites() as site:
            live = await site.accept(scripts.WAITING)
            await site.until_said(live, "ready")
            condor_host.pool.stop_schedd()
            await site.stop(live)
            condor_host.pool.start_schedd()
            await site.ending(live)
            await site.until_cleaned(live)
            assert site.place.processes(live.run.run_id) == 0

    async def test_an_account_that_the_agent_may_not_be_is_an_error_for_the_admin_and_leaves_no_job(
        self, sites: Sites
    ) -> None:
        async with sites(has_loop=False) as site:
            live = await site.accept(scripts.saying("never"))
            launch = await site.prepare(live)
            stranger = Account("carol", 2005, 2005, (2005,), "/home/carol")
            with pytest.raises(AdminError, match="QUEUE_SUPER_USER_MAY_IMPERSONATE"):
                await site.backend.start(replace(launch, account=stranger))
            assert (await site.backend.observe(live.run.run_id, 1)).seen is Seen.NOTHING
            assert await site.place.leftovers() == []

    async def test_an_expired_token_is_named_by_every_verb(
        self, sites: Sites, condor_host: CondorHost, tmp_path: Path
    ) -> None:
        tokens = tmp_path / "tokens.d"
        tokens.mkdir(mode=0o700)
        token = tokens / "agent"
        token.write_text(condor_host.pool.make_token())
        token.chmod(0o600)
        async with sites(has_loop=False, token_directory=tokens) as site:
            live = await site.accept(scripts.saying("never"))
            launch = await site.prepare(live)
            good = token.read_text()
            token.write_text(condor_host.pool.make_token(lifetime_s=1))
            await asyncio.sleep(2)  # the token's life
            condor_host.pool.kill_schedd()  # with it goes what it remembers of this agent
            condor_host.pool.wait_until_ready()
            for verb in (site.backend.start(launch), site.backend.run_ids()):
                with pytest.raises(AdminError, match="has expired"):
                    await verb
            with pytest.raises(AdminError, match="has expired"):
                await site.place.backend().open()
            token.write_text(good)


class TestMachines:
    """Execute points that die, stand still, or are wrong."""

    async def test_an_execute_point_that_is_killed_and_comes_back_runs_nothing_twice(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites(has_loop=False) as site:
            live = await started(site)
            machine = await machine_of(site, live)
            condor_host.pool.kill(machine)
            await until_seen(site, live, Seen.LOST)
            condor_host.pool.bring_back(machine)
            job = (await site.backend.observe(live.run.run_id, 1)).remote_id
            await until_status(condor_host, job, "1")  # its lease is over
            await asyncio.sleep(_NEGOTIATIONS_S)
            assert (await site.backend.observe(live.run.run_id, 1)).seen is Seen.LOST
            assert site.starts_of(live) == 1

    async def test_a_machine_whose_clock_is_ten_minutes_off_runs_jobs_as_any(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        condor_host.pool.set_clock(Machine.EXECUTE_1, "+10m")
        commands = {"environment": clock_environment("+10m")}
        try:
            async with sites(requirements='Machine == "ep1"', commands=commands) as site:
                live = await site.accept(scripts.saying("later"))
                ending = await site.ending(live)
                assert (ending.outcome, site.output(live)) == (Outcome.COMPLETED, b"later\n")
        finally:
            condor_host.pool.set_clock(Machine.EXECUTE_1, "")

    async def test_a_job_whose_files_find_no_room_on_the_machine_goes_home(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites(commands={"request_disk": "1KB"}) as site:
            with condor_host.pool.full_disk():
                ending = await site.ending(await site.accept(scripts.saying("never")))
                assert ending.outcome is Outcome.REJECTED
                assert ending.reason

    async def test_a_job_that_no_machine_can_take_any_more_goes_home(self, sites: Sites) -> None:
        async with sites(requirements="false", limits=Limits(start_within_s=3)) as site:
            ending = await site.ending(await site.accept(scripts.saying("never")))
            assert ending.outcome is Outcome.REJECTED
            assert "no machine of the site took the job" in ending.reason

    async def test_what_no_machine_can_ever_take_is_refused_before_it_is_accepted(self, sites: Sites) -> None:
        features = {"ib": Meaning("HasInfiniband =?= true"), "x86": Meaning('Arch == "X86_64"')}
        async with sites(has_loop=False, features=features) as site:
            await site.backend.check(Demand(SMALL, constraint="x86"))
            with pytest.raises(UnrunnableError, match="constraint=ib"):
                await site.backend.check(Demand(SMALL, constraint="ib"))
            with pytest.raises(UnrunnableError, match="1000 CPUs"):
                await site.backend.check(Demand(Resources(cpus=1000)))

    async def test_while_one_job_has_a_machine_the_next_waits_in_the_schedds_queue(self, sites: Sites) -> None:
        async with sites(requirements='Machine == "ep1"') as site:
            first = await site.accept(scripts.WAITING, filling())
            await site.until_said(first, "ready")
            second = await site.accept(scripts.saying("second"), filling())
            await job_id(site, second)
            assert site.starts_of(second) == 0
            await site.stop(first)
            assert (await site.ending(second)).outcome is Outcome.COMPLETED


class TestContainers:
    """The docker universe."""

    async def test_a_run_in_an_image_is_its_account_by_number_and_name(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites(image=image_of(condor_host)) as site:
            script = b"#!/bin/bash\nid -u; id -un; pwd; echo $HOME; grep CapEff /proc/self/status\n"
            live = await site.accept(script)
            assert (await site.ending(live)).outcome is Outcome.COMPLETED
            lines = site.output(live).decode().split()
            assert lines == ["2001", "alice", "/home/alice/project", "/home/alice", "CapEff:", "0" * 16]
            await site.until_cleaned(live)

    async def test_a_run_whose_script_takes_too_much_memory_is_told_from_one_that_is_killed(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        async with sites(image=image_of(condor_host)) as site:
            ending = await site.ending(await site.accept(scripts.GREEDY))
            assert ending.outcome is Outcome.OUT_OF_MEMORY

    @pytest.mark.parametrize("universe", ["docker", "container"])
    async def test_an_image_that_is_missing_sends_the_job_home(
        self, sites: Sites, condor_host: CondorHost, universe: str
    ) -> None:
        image = image_of(condor_host, reference="nosuch:1")
        async with sites(image=image, universe=universe, images_attribute="") as site:
            ending = await site.ending(await site.accept(scripts.saying("never")))
            assert ending.outcome is Outcome.REJECTED
            assert "image" in ending.reason

    async def test_an_image_without_python_sends_the_job_home(self, sites: Sites, condor_host: CondorHost) -> None:
        async with sites(image=image_of(condor_host, python="/opt/nopython")) as site:
            ending = await site.ending(await site.accept(scripts.saying("never")))
            assert ending.outcome is Outcome.REJECTED
            assert "no Python" in ending.reason

    async def test_an_image_whose_entry_point_fails_sends_the_job_back(
        self, sites: Sites, condor_host: CondorHost
    ) -> None:
        broken = condor_host.image_with('ENTRYPOINT ["/bin/false"]')
        async with sites(image=image_of(condor_host, reference=broken)) as site:
            ending = await site.ending(await site.accept(scripts.saying("never")))
            assert ending.outcome in (Outcome.REJECTED, Outcome.NODE_FAIL)
            assert ending.reason


async def machine_of(site: Site, live: LiveRun) -> Machine:
    async def is_known() -> bool:
        return bool((await site.backend.observe(live.run.run_id, 1)).machine)

    await until("the run's machine is known", is_known)
    return Machine((await site.backend.observe(live.run.run_id, 1)).machine.partition("@")[2])


async def until_status(host: CondorHost, job: str, status: str) -> None:
    async def has_status() -> bool:
        return host.pool.tool("condor_q", job, "-af", "JobStatus").strip() == status

    await until(f"job {job} has status {status}", has_status)
