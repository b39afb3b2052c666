"""The rig that everything is measured on, and what measurements do with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from tests.rig import Rig, SiteBackend
from tests.rig.host import Host
from tests.rig.overspill_conf import AGENT_PORT, SIDECAR_CONF, SITE_PKI
from tests.rig.progress import Progress
from tests.rig.routing import ask_router
from tests.rig.slurm_conf import OVERSPILL_PARTITION, ClusterOptions
from tests.rig.waiting import poll

#: sbatch options that choose the way of a job. Overspill itself decides nothing here but for `submission`.
LOCAL, DIVERTED = "--overspill=never", "--overspill=always"
#: Both partitions are one node of this size: what runs on one could run on the other.
NODE_CPUS = 2_048
_NODE_MEMORY_MIB = 4_096_000
_CLUSTER = ClusterOptions(
    real_nodes=1,
    real_node_cpus=NODE_CPUS,
    real_node_memory_mib=_NODE_MEMORY_MIB,
    virtual_node_cpus=NODE_CPUS,
    virtual_node_memory_mib=_NODE_MEMORY_MIB,
    site_cpus=2 * NODE_CPUS,
    site_memory_mib=_NODE_MEMORY_MIB,
    more_lines=("MaxJobCount=50000",),
)
#: No wait of the bench is longer: with mode=on the router estimates every wait and diverts nothing by itself.
_POLICY = "overspill_mode=on,overspill_wait=7-00:00:00"
_INSIDE = Path(__file__).with_name("inside")
_LOG_TIME = r"(?m)^\[(?P<time>[^\]]+)\] "
_STARTED = re.compile(_LOG_TIME + r"(?:sched: Allocate|sched/backfill: _start_job: Started) JobId=(?P<job>\d+) ")
_DONE = re.compile(_LOG_TIME + r"_job_complete: JobId=(?P<job>\d+) done")


class BenchError(Exception):
    """The rig did not do what a measurement needs; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class ControllerLog:
    """What slurmctld wrote about jobs; times are Unix seconds, exact to a millisecond."""

    started_at: dict[int, float]
    done_at: dict[int, float]


class Bench:
    """The running rig with verbs for measurements."""

    def __init__(self, rig: Rig, say: Progress) -> None:
        self.rig = rig
        self.say = say

    def run_inside(
        self, program: str, *arguments: str, stdin: object = None, user: str = "alice", host: Host | None = None
    ) -> object:
        """Run a program of `inside/` in a host, by default the cluster, and return the JSON that it prints."""
        script, host = "/srv/" + program, host or self.rig.cluster
        host.write(script, (_INSIDE / program).read_bytes())
        ran = host.run(
            ["/opt/overspill/venv/bin/python", script, *arguments],
            user=user,
            cwd="/home/alice" if user == "alice" else "/",
            env={"PYTHONPATH": "/opt/overspill/lib"},
            stdin=json.dumps(stdin),
            timeout=300.0,
            check=True,
        )
        return cast("object", json.loads(ran.stdout))

    def user_file(self, name: str) -> Path:
        """Return where a file in the submit directory is, seen from outside."""
        return self.rig.cluster.path(f"/home/alice/{name}")

    def submit(self, body: str, way: str, *options: str, user: str = "alice") -> int:
        """Submit a bash script by LOCAL or DIVERTED; one that is not sent that way is cancelled and submitted again.

        Raises:
            BenchError: if the router keeps it at home for half a minute.
        """
        script, tries_end_at = f"#!/bin/bash\n{body}\n", time.monotonic() + 30
        while True:
            job_id = self.rig.sbatch(script, way, *options, user=user)
            if way == LOCAL or self.is_diverted(job_id):
                return job_id
            self.rig.cluster.run(["scancel", str(job_id)], check=True)
            if time.monotonic() > tries_end_at:
                raise BenchError(f"job {job_id} was not diverted, nor were those before it")
            time.sleep(0.5)

    def is_diverted(self, job_id: int) -> bool:
        """Tell whether the job runs or waits in the overspill partition."""
        return OVERSPILL_PARTITION in self.rig.job(job_id)["Partition"].split(",")

    def wait_for_jobs(self, job_ids: Collection[int], states: str, timeout_s: float) -> None:
        """Wait until each of the jobs is in one of the states, which are as for `squeue --states`.

        Raises:
            BenchError: after `timeout_s`.
        """
        wanted = set(job_ids)

        def are_all_there() -> bool:
            listed = self.rig.cluster.run(["squeue", "--noheader", f"--states={states}", "--format=%A"], check=True)
            return wanted <= {int(word) for word in listed.stdout.split()}

        if not poll(are_all_there, timeout_s=timeout_s, interval_s=0.2):
            raise BenchError(f"not all of {len(wanted)} jobs became {states} within {timeout_s} s")

    def cancel_all(self) -> None:
        """Cancel alice's jobs and wait until none is left."""
        self.rig.cluster.run(["scancel", "--user=alice"], check=True, timeout=120.0)
        queue = ["squeue", "--noheader", "--user=alice", "--format=%A"]
        if not poll(lambda: not self.rig.cluster.run(queue, check=True).stdout.split(), timeout_s=400, interval_s=0.2):
            raise BenchError("alice's jobs do not end")

    def load_hook(self, script: str | None = None) -> None:
        """Have the next submission load job_submit.lua anew, with all that it remembers of the sidecar gone.

        slurmctld loads it if the file's time is later than the last load; both are whole seconds.
        """
        path = "/etc/slurm/job_submit.lua"
        changed_at = int(time.time()) + 1
        content = script if script is not None else self.rig.cluster.path(path).read_text()
        os.utime(self.rig.cluster.write(path, content), (changed_at, changed_at))
        time.sleep(changed_at - time.time())

    @contextmanager
    def full_nodes(self) -> Iterator[None]:
        """Hold both nodes full, so that what is submitted waits; on leaving, everything that waits starts at once."""
        everything = (f"--cpus-per-task={NODE_CPUS}", "--time=1-0")
        blockers = [self.submit("sleep 100000", way, *everything, user="bob") for way in (LOCAL, DIVERTED)]
        self.wait_for_jobs(blockers, "RUNNING", timeout_s=30)
        try:
            yield
        finally:
            self.rig.cluster.run(["scancel", *map(str, blockers)], check=True)

    @contextmanager
    def canned_site(self) -> Iterator[None]:
        """Have an agent that runs nothing in the place of the site's, see `canned_agent`."""
        site = self.rig.site
        files = [str(site.path(f"{SITE_PKI}/{name}")) for name in ("agent.pem", "ca.pem")]
        enter = ["nsenter", f"--net=/proc/{site.init_pid}/ns/net", sys.executable, "-m", "tests.bench.canned_agent"]
        sizes = [str(2 * NODE_CPUS), str(_NODE_MEMORY_MIB)]
        site.daemon("agent").stop()
        canned = subprocess.Popen([*enter, f"0.0.0.0:{AGENT_PORT}", *files, *sizes], stdout=subprocess.PIPE)
        try:
            if canned.stdout is None or canned.stdout.readline() != b"listening\n":
                raise BenchError("the canned agent does not start")
            self.wait_until_diverting()
            yield
        finally:
            canned.kill()
            canned.wait()
            site.daemon("agent").start()
            self.wait_until_diverting()

    def wait_until_diverting(self) -> None:
        """Wait until the router sends away what is to go.

        Raises:
            BenchError: after half a minute.
        """

        def would_divert() -> bool:
            answer = ask_router(self.rig, DIVERTED)
            return answer is not None and answer["verdict"] == "DIVERT"

        if not poll(would_divert, timeout_s=30, interval_s=0.2):
            raise BenchError(f"the router diverts nothing: {ask_router(self.rig, DIVERTED)}")

    def controller_log(self) -> ControllerLog:
        text = self.rig.cluster.path("/var/log/slurm/slurmctld.log").read_text()
        return ControllerLog(
            started_at={int(m["job"]): _unix_time(m["time"]) for m in _STARTED.finditer(text)},
            done_at={int(m["job"]): _unix_time(m["time"]) for m in _DONE.finditer(text)},
        )


@contextmanager
def bench_rig(say: Progress, backend: SiteBackend = SiteBackend.LOCAL) -> Iterator[Bench]:
    """Bring up a rig of two equal partitions with Overspill as in production; take it down at the end."""
    with Rig.up(policy=_POLICY, cluster=_CLUSTER, backend=backend, progress=say) as rig:
        # The rig's sidecar asks Slurm five times as often as a production one.
        _reconfigure(rig.cluster, ["router", "relay"], SIDECAR_CONF, [("refresh_s = 1.0", "refresh_s = 5.0")])
        bench = Bench(rig, say)
        bench.wait_until_diverting()
        yield bench


def _reconfigure(host: Host, daemons: Sequence[str], path: str, changes: Sequence[tuple[str, str]]) -> None:
    text = host.path(path).read_text()
    for old, new in changes:
        if old not in text:
            raise BenchError(f"{path} no longer says {old!r}")
        text = text.replace(old, new)
    for daemon in daemons:
        host.daemon(daemon).stop()
    host.path(path).write_text(text)
    for daemon in daemons:
        host.daemon(daemon).start()


def _unix_time(text: str) -> float:
    """Return the Unix time of a log line, which is in local time: the hosts have this machine's /etc/localtime."""
    return datetime.fromisoformat(text).astimezone().timestamp()
