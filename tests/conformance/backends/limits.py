"""The cases of limits: time, memory, CPUs, GPUs."""

from __future__ import annotations

from overspill.states import Outcome
from overspill_agent.runs import Resources
from overspill_runner.runner import NO_GPU
from tests.conformance.backends import scripts
from tests.conformance.backends.site import SMALL, Site

#: CPU time is charged in ticks, and a process may run a little longer than the clock that its script looked at.
_CPU_MARGIN = 0.4


class Limits:
    """What a run gets of what it asked for, and what happens when it takes more."""

    async def test_the_time_limit_ends_a_run_that_slurm_has_not_ended(self, site: Site) -> None:
        live = await site.accept(scripts.STUBBORN, time_limit_s=1)
        ending = await site.ending(live)
        assert ending.outcome is Outcome.TIMEOUT
        await site.until_cleaned(live)
        assert site.place.processes(live.run.run_id) == 0

    async def test_a_script_that_takes_too_much_memory_is_told_from_one_that_is_killed(self, site: Site) -> None:
        ending = await site.ending(await site.accept(scripts.GREEDY))
        assert ending.outcome is site.place.expects.own_memory
        assert ending.reason

    async def test_memory_that_a_child_took_too_much_of_is_the_scripts_affair(self, site: Site) -> None:
        live = await site.accept(scripts.GREEDY_CHILD)
        ending = await site.ending(live)
        assert ending.outcome is site.place.expects.childs_memory
        if ending.outcome is Outcome.COMPLETED:
            assert ending.exit_code == 0
            assert b"the script goes on" in site.output(live)

    async def test_where_memory_is_short_the_kernel_takes_a_script_before_its_runner(self, site: Site) -> None:
        live = await site.accept(scripts.EXPENDABLE)
        await site.ending(live)
        assert int(site.output(live)) > 0

    async def test_a_run_gets_no_more_cpus_than_it_asked_for(self, site: Site) -> None:
        live = await site.accept(scripts.BURNING)
        ending = await site.ending(live)
        wall_ms = int(site.output(live))
        used = (ending.user_cpu_ms + ending.system_cpu_ms) / wall_ms
        assert 0 < used < site.place.expects.most_cpus_for_one + _CPU_MARGIN

    async def test_runs_with_gpus_see_their_own_and_others_see_none(self, site: Site) -> None:
        with_gpu = Resources(cpus=SMALL.cpus, memory_mib=SMALL.memory_mib, gpus=1)
        asked = [with_gpu] * site.place.expects.gpus
        lives = [await site.accept(scripts.DEVICES, resources) for resources in [*asked, SMALL]]
        devices = []
        for live in lives:
            await site.until_said_anything(live)
            devices.append(site.output(live).decode().strip())
        *own, none = devices
        assert len(set(own)) == site.place.expects.gpus
        assert all(device and "," not in device for device in own)
        assert none.encode() in (b"", NO_GPU)
