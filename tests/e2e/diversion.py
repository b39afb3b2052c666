"""Waiting for the router to come to an answer."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from tests.rig import Rig
from tests.rig.overspill_conf import SIDECAR_CONF
from tests.rig.routing import would_divert
from tests.rig.slurm_conf import OVERSPILL_PARTITION, VIRTUAL_NODE
from tests.rig.waiting import poll

_HOOK = "/etc/slurm/job_submit.lua"


def wait_until(is_done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll until done.

    Raises:
        AssertionError: that names `what` was waited for.
    """
    assert poll(is_done, timeout_s=timeout_s, interval_s=0.05), f"waited {timeout_s} s in vain for {what}"


def wait_until_diverting(rig: Rig) -> None:
    """Wait until jobs are diverted: the router would, and slurmctld's hook asks it again after an earlier failure."""
    wait_until(lambda: would_divert(rig), timeout_s=60, what="the router to divert")
    # The hook's breaker pauses for 30 s after a missed deadline.
    assert poll(lambda: _is_probe_diverted(rig), timeout_s=60, interval_s=1), "waited in vain for slurmctld to ask"


def _is_probe_diverted(rig: Rig) -> bool:
    return rig.job(rig.sbatch("#!/bin/bash\n:\n"))["Partition"] == OVERSPILL_PARTITION


def tolerate_a_busy_machine(rig: Rig) -> None:
    """Let a submission wait for the router for a second, and jobs for their site for a minute.

    The 50 ms and the rig's 5 s are over soon where hundreds of jobs start at once, and then jobs rightly stay at home.
    """
    hook = rig.cluster.path(_HOOK).read_text()
    rig.cluster.write(_HOOK, hook.replace("\nfunction", "\noverspill.configure{deadline_s = 1}\n\nfunction", 1))
    settings = rig.cluster.path(SIDECAR_CONF).read_text()
    rig.cluster.write(SIDECAR_CONF, re.sub(r"unreachable_grace_s = \S+", "unreachable_grace_s = 60.0", settings))
    sidecar = rig.cluster.daemon("sidecar")
    sidecar.stop()
    sidecar.start()


def look_often(rig: Rig) -> None:
    """Have the sidecar see four times a second what a test changes."""
    settings = rig.cluster.path(SIDECAR_CONF).read_text()
    rig.cluster.write(SIDECAR_CONF, re.sub(r"refresh_s = 1.0", "refresh_s = 0.25", settings))
    sidecar = rig.cluster.daemon("sidecar")
    sidecar.stop()
    sidecar.start()


def submit_diverted(
    rig: Rig,
    script: str,
    *options: str,
    user: str = "alice",
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> int:
    """Submit a job that is to be diverted, and make sure that it is.

    Waits for a site whose node is drained, because the test before has broken something for long enough.
    """
    if not drain_reason(rig):
        job_id = rig.sbatch(script, *options, user=user, arguments=arguments, env=env)
        if rig.job(job_id)["Partition"] == OVERSPILL_PARTITION:
            return job_id
        # The hook may still be waiting out a pause that the test before has brought about.
        rig.cluster.run(["scancel", str(job_id)], check=True)
    wait_until_diverting(rig)
    job_id = rig.sbatch(script, *options, user=user, arguments=arguments, env=env)
    assert rig.job(job_id)["Partition"] == OVERSPILL_PARTITION
    return job_id


@contextmanager
def job_at_a_dead_site(rig: Rig, script: str) -> Iterator[int]:
    """Kill the agent and have a job start at its site before anybody has noticed; the agent is back afterwards.

    Where router or relay are sooner than a busy machine's sbatch it is all done again.
    """
    try:
        yield _start_at_a_dead_site(rig, script)
    finally:
        if not rig.site.daemon("agent").is_running:
            rig.site.daemon("agent").start()


def _start_at_a_dead_site(rig: Rig, script: str) -> int:
    for _ in range(3):
        wait_until(lambda: would_divert(rig), timeout_s=60, what="the router to divert")
        rig.site.daemon("agent").signal(signal.SIGKILL)
        job_id = rig.sbatch(script)
        if poll(partial(_has_started_at_a_site, rig, job_id), timeout_s=10):
            return job_id
        assert _is_kept_away(rig, job_id), f"it was to start at its site, or to be kept away from it: {rig.job(job_id)}"
        rig.cluster.run(["scancel", str(job_id)])
        rig.site.daemon("agent").start()
    raise AssertionError("thrice router or relay knew of the agent's death before a job had started at its site")


def _has_started_at_a_site(rig: Rig, job_id: int) -> bool:
    job = rig.job(job_id)
    return (job["Partition"], job["JobState"]) == (OVERSPILL_PARTITION, "RUNNING")


def _is_kept_away(rig: Rig, job_id: int) -> bool:
    """Return whether router or relay have noticed that the site is dead."""
    job = rig.job(job_id)
    return job["Partition"] != OVERSPILL_PARTITION or (job["JobState"] == "PENDING" and bool(drain_reason(rig)))


def wait_for_line(rig: Rig, job_id: int | str, line: bytes, *, timeout_s: float = 60) -> None:
    """Wait until the job's output file has the line."""
    wait_until(lambda: line in rig.output(job_id), timeout_s=timeout_s, what=f"the job to print {line!r}")


#: Says at each start which it is, and ends only if it is not the first.
SECOND_TIME_LUCKY = (
    '#!/bin/bash\necho attempt ${SLURM_RESTART_COUNT:-0}\n[ -n "$SLURM_RESTART_COUNT" ] || exec sleep 1000\n'
)


def expect_second_attempt_at_home(rig: Rig, job_id: int, *, timeout_s: float = 60) -> None:
    """Wait until a job of `SECOND_TIME_LUCKY`, submitted with --open-mode=append, has run again at home."""
    wait_until(lambda: rig.job(job_id)["Restarts"] == "1", timeout_s=timeout_s, what="the job to be requeued")
    start_requeued(rig, job_id)
    job = rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
    assert job["Partition"] == "batch"
    assert rig.output(job_id).splitlines()[-1] == b"attempt 1"


def start_requeued(rig: Rig, job_id: int) -> None:
    """Spare a requeued job the two minutes that Slurm lets it wait.

    They begin when its node is done with the attempt before: what is said sooner is forgotten then.
    """
    rig.wait_for_state(job_id, "PENDING", timeout_s=60)
    rig.cluster.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], check=True)


def drain_reason(rig: Rig) -> str:
    """Return why the virtual node is drained, as `sinfo -R` tells it; empty if it is not."""
    shown = rig.cluster.run(["sinfo", "--noheader", "-N", "-n", VIRTUAL_NODE, "-o", "%T|%E"], check=True).stdout
    state, _, reason = shown.strip().partition("|")
    return reason if state.startswith("drain") else ""


def wait_until_not_diverting(rig: Rig) -> None:
    """Wait until the router has noticed that the site does not answer."""
    wait_until(lambda: not would_divert(rig), timeout_s=30, what="the router to keep jobs at home")
