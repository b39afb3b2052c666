"""The oracle is Slurm itself: what a user sees of a session is the same whether its jobs run here or at a site.

A module that takes over the fixture has it play its cases on the Slurm that its `SLURM` names, diverted to a site with
the back end that its `BACKEND` names.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.e2e.cases import CASES, Case, cases_for, site
from tests.e2e.comparing import FIRST_JOB_ID, Played, differences, play
from tests.e2e.diversion import tolerate_a_busy_machine, wait_until_diverting
from tests.rig import ClusterOptions, Rig, site_backend

_LOCAL = "never"
_DIVERTED = "always"
#: So much that all cases run side by side.
_CPUS = 1024
_MEMORY_MIB = 2_000_000
#: How often cases are played again that Overspill left at home.
_MORE_TRIES = 2
_SITES_PROGRAMS = {
    "TaskProlog": ("/etc/slurm/task_prolog.sh", site.TASK_PROLOG),
    "TaskEpilog": ("/etc/slurm/task_epilog.sh", site.TASK_EPILOG),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of each case, by its name."""

    local: dict[str, Played]
    diverted: dict[str, Played]


def _compare(cases: list[Case], slurm: str | None, backend: str | None, *, needs_home: bool) -> Comparison:
    cluster = ClusterOptions(
        real_node_cpus=_CPUS // 4,
        real_node_memory_mib=_MEMORY_MIB // 4,
        virtual_node_cpus=_CPUS,
        virtual_node_memory_mib=_MEMORY_MIB,
        site_cpus=_CPUS,
        site_memory_mib=_MEMORY_MIB,
        more_lines=(f"FirstJobId={FIRST_JOB_ID}", *(f"{name}={path}" for name, (path, _) in _SITES_PROGRAMS.items())),
    )
    if not cases:
        return Comparison({}, {})
    with Rig.up(
        policy="overspill_mode=always", shared=needs_home, cluster=cluster, slurm=slurm, backend=backend
    ) as rig:
        for path, program in _SITES_PROGRAMS.values():
            rig.cluster.write(path, program, mode=0o755)
        tolerate_a_busy_machine(rig)
        wait_until_diverting(rig)
        return Comparison(play(rig, cases, way=_LOCAL), _play_diverted(rig, cases))


def _play_diverted(rig: Rig, cases: list[Case]) -> dict[str, Played]:
    """Play the cases diverted, those again that stayed at home because the busy router's answer came too late."""
    if rig.options.backend.has_engine:
        # A container takes a second of a CPU to start, in a pool three: with 286 at once the last begins minutes later.
        played = play(rig, cases, way=_DIVERTED, sessions_at_once=6, is_patient=True)
    else:
        played = play(rig, cases, way=_DIVERTED)
    for _ in range(_MORE_TRIES):
        if at_home := [case for case in cases if case.is_diverted and played[case.name].partitions == {"batch"}]:
            wait_until_diverting(rig)
            played |= play(rig, at_home, way=_DIVERTED, sessions_at_once=2)
    return played


@pytest.fixture(scope="module")
def comparison(request: pytest.FixtureRequest) -> Comparison:
    """Play every case that is asked for both ways, side by side, before the first test."""
    chosen = {item.name for item in request.session.items if item.path == request.path}
    cases = [case for case in CASES if any(name.endswith(f"[{case.name}]") for name in chosen)]
    where = (request.module.SLURM, request.module.BACKEND)
    isolated = _compare([case for case in cases if not case.needs_home], *where, needs_home=False)
    shared = _compare([case for case in cases if case.needs_home], *where, needs_home=True)
    return Comparison(isolated.local | shared.local, isolated.diverted | shared.diverted)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", cases_for(site_backend.named(None)), ids=lambda case: case.name)
def test_a_diverted_session_cannot_be_told_from_a_local_one(comparison: Comparison, case: Case) -> None:
    assert_alike(comparison, case)


def assert_alike(comparison: Comparison, case: Case) -> None:
    """Fail with what a user can tell apart, or if the jobs did not run where they should have."""
    local, diverted = comparison.local[case.name], comparison.diverted[case.name]
    told_apart = differences(local.outcome, diverted.outcome)
    assert not told_apart, "\n".join(told_apart)
    assert local.partitions <= {"batch"}
    if diverted.partitions:
        assert ("overspill" in diverted.partitions) == case.is_diverted
