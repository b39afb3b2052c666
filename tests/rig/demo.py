"""`make demo`: a full cluster spills over before your eyes, and every promise is checked.

Fills the partition `batch`, submits as a plain user with plain `sbatch`, follows one output live, cancels one job, and
tells where each job ran. Ends with 1 if anything is not as promised.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Console
from rich.table import Table

from tests.rig.job_verbs import JobVerbs
from tests.rig.rig import Rig
from tests.rig.routing import ask_router, would_divert
from tests.rig.waiting import poll

_POLICY = "overspill_mode=on,overspill_wait=00:00:30"
_BATCH_IS_BUSY_S = 40
#: Of a promise: anywhere at the site.
_SITE = "site"
_WIDTH_IN_A_LOG = 110


@dataclass(frozen=True)
class Promise:
    """A job of the demo, and what must become of it. Every script prints first where it runs."""

    name: str
    script: str
    where: str
    output: str
    state: str = "COMPLETED"
    exit_code: str = "0:0"
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    #: Slurm and the shell add words of their own about a cancelled job, as they do for a local one.
    is_output_exact: bool = True


@dataclass
class Submitted:
    """A promise and the job that it was given to."""

    promise: Promise
    job_id: int
    predicted_wait_s: object
    seen: dict[str, str] = field(default_factory=dict)
    output: str = ""
    broken: list[str] = field(default_factory=list)


def _script(body: str) -> str:
    return f"#!/bin/bash\nuname -n\n{body}\n"


_FILL = ("--cpus-per-task=2", "--time=5")
_FILLER = Promise("filler", _script(f"sleep {_BATCH_IS_BUSY_S}"), "cluster", "", options=_FILL)
_LINES = 8
_CANCELLED = Promise(
    "cancel-me",
    _script("trap 'echo saving a checkpoint; exit 0' TERM\necho waiting\nwhile :; do sleep 0.1; done"),
    _SITE,
    "waiting\nsaving a checkpoint\n",
    state="CANCELLED",
    is_output_exact=False,
)
_LIVE = Promise(
    "live",
    _script(f"for i in $(seq {_LINES}); do echo step $i of {_LINES}; sleep 0.5; done"),
    _SITE,
    "".join(f"step {i} of {_LINES}\n" for i in range(1, _LINES + 1)),
)
_OTHERS = (
    Promise("arguments", _script("printf '<%s>' \"$@\"; echo"), _SITE, "<a b><$x><>\n", arguments=("a b", "$x", "")),
    Promise("fails", _script("echo oh no >&2; exit 7"), _SITE, "oh no\n", state="FAILED", exit_code="7:0"),
    Promise("crashes", _script("echo now; kill -SEGV $$"), _SITE, "now\n", state="FAILED", exit_code="0:11"),
    Promise("stays-home", _script("echo at home"), "cluster", "at home\n", options=("--overspill=never",)),
)


class Demo:
    """One walk through the demo on a running rig."""

    def __init__(self, rig: JobVerbs, console: Console, *, real_nodes: int, site: str) -> None:
        """Show the demo on `rig`.

        Args:
            rig: a running one.
            console: where to.
            real_nodes: so many nodes of two CPUs each has the partition `batch`.
            site: regular expression for what machines of the site call themselves.
        """
        self._rig = rig
        self._console = console
        self._real_nodes = real_nodes
        self._site = site

    def run(self) -> list[Submitted]:
        """Do everything; return the jobs with whatever promise was broken."""
        self._say(f"[bold]1.[/] bob fills the partition `batch` for {_BATCH_IS_BUSY_S} s")
        fillers = [self._submit(_FILLER, user="bob") for _ in range(self._real_nodes)]
        for filler in fillers:
            self._rig.wait_for_state(filler.job_id, "RUNNING")
        self._wait_until_router_sees_a_full_cluster()
        self._say("[bold]2.[/] alice submits as on any other day: `sbatch job.sh`")
        live = self._submit(_LIVE)
        cancelled = self._submit(_CANCELLED)
        others = [self._submit(promise) for promise in _OTHERS]
        self._say(f"[bold]3.[/] job {live.job_id}'s output, as it appears in alice's file:")
        self._follow(live)
        self._say(f"[bold]4.[/] alice cancels job {cancelled.job_id}; its handler still has the last word")
        self._cancel(cancelled)
        self._say("[bold]5.[/] waiting for the others to end")
        jobs = [*fillers, live, cancelled, *others]
        for job in jobs:
            self._check(job)
        return jobs

    def _say(self, text: str) -> None:
        self._console.print(f"\n{text}")

    def _submit(self, promise: Promise, user: str = "alice") -> Submitted:
        answer = ask_router(self._rig, *(option for option in promise.options if option in _FILL)) or {}
        options = (f"--job-name={promise.name}", *promise.options)
        job_id = self._rig.sbatch(promise.script, *options, user=user, arguments=promise.arguments)
        return Submitted(promise, job_id, answer.get("predicted_wait_s"))

    def _wait_until_router_sees_a_full_cluster(self) -> None:
        if not poll(lambda: would_divert(self._rig), timeout_s=20, interval_s=0.3):
            sys.exit("The router never saw that the cluster is full: see its log after `make up`.")

    def _follow(self, job: Submitted) -> None:
        """Print the job's output as it grows, until its last line."""
        shown = 0
        began = time.monotonic()

        def is_complete() -> bool:
            nonlocal shown
            lines = self._rig.output(job.job_id).decode().splitlines()
            for line in lines[shown:]:
                self._console.print(f"   [dim]{time.monotonic() - began:5.1f} s[/] {line}")
            shown = len(lines)
            return shown > _LINES

        if not poll(is_complete, timeout_s=30, interval_s=0.05):
            job.broken.append("its output did not appear live")

    def _cancel(self, job: Submitted) -> None:
        if not poll(lambda: b"waiting" in self._rig.output(job.job_id), timeout_s=30):
            job.broken.append("never started")
        self._rig.cluster.run(["scancel", str(job.job_id)], user="alice", check=True)

    def _check(self, job: Submitted) -> None:
        """Wait for the job's end and note every promise that was not kept."""
        promise = job.promise
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        job.seen = self._rig.wait_for_state(job.job_id, ended, timeout_s=120)
        place = self._site if promise.where == _SITE else promise.where

        def has_all_output() -> bool:
            job.output = self._rig.output(job.job_id).decode(errors="replace")
            name, _, output = job.output.partition("\n")
            if promise.is_output_exact:
                return bool(re.fullmatch(place, name)) and output == promise.output
            lines = iter(output.splitlines())
            return bool(re.fullmatch(place, name)) and all(line in lines for line in promise.output.splitlines())

        if not poll(has_all_output, timeout_s=30):
            job.broken.append(f"output is {job.output!r}, promised was {promise.output!r}, below a name like {place}")
        for what, wanted, got in (
            ("state", promise.state, job.seen["JobState"]),
            ("exit code", promise.exit_code, job.seen["ExitCode"]),
        ):
            if got != wanted:
                job.broken.append(f"{what} is {got!r}, promised was {wanted!r}")


def _predicted(value: object) -> str:
    return "unknown" if value is None else f"at most {value} s"


def _real_wait_s(job: Submitted) -> float:
    submitted, started = (datetime.fromisoformat(job.seen[name]) for name in ("SubmitTime", "StartTime"))
    return (started - submitted).total_seconds()


def _table(jobs: list[Submitted]) -> Table:
    table = Table(title="Where each job ran, and whether every promise was kept")
    for heading in ("Job", "Name", "Ran at", "Predicted wait", "Waited", "State", "Exit", "Kept"):
        table.add_column(heading, justify="right" if "ait" in heading else "left", no_wrap=True)
    for job in jobs:
        host = job.output.partition("\n")[0]
        verdict = "[red]no[/]" if job.broken else "[green]yes[/]"
        waits = (_predicted(job.predicted_wait_s), f"{_real_wait_s(job):.0f} s")
        ended = (job.seen["JobState"], job.seen["ExitCode"])
        table.add_row(str(job.job_id), job.promise.name, host, *waits, *ended, verdict)
    return table


def run_demo(slurm: str | None = None, backend: str | None = None) -> int:
    """Bring a rig of this Slurm and this back end up, show everything, take it down; return the exit code."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_IN_A_LOG)
    began = time.monotonic()

    def show(step: str) -> None:
        console.print(f"[dim]  rig: {step}[/]")

    with Rig.up(policy=_POLICY, slurm=slurm, backend=backend, progress=show) as rig:
        real_nodes, site = rig.options.cluster.real_nodes, rig.options.backend.machines
        jobs = Demo(rig, console, real_nodes=real_nodes, site=site).run()
    console.print(_table(jobs))
    broken = [(job, what) for job in jobs for what in job.broken]
    for job, what in broken:
        console.print(f"[red]job {job.job_id} ({job.promise.name}): {what}[/]")
    took = f"{time.monotonic() - began:.0f} s"
    console.print(f"[red]{len(broken)} promises broken[/], {took}" if broken else f"All promises kept, {took}.")
    return 1 if broken else 0
