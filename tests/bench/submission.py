"""sbatch with Overspill against sbatch with a hook that does nothing, alone and 20 at once, and with a hung sidecar.

Both nodes are full, so that nothing starts. In turn: blocks in which the sidecar is stopped (SIGSTOP) and the hook
does nothing, which is Slurm without Overspill; and blocks in which the hook asks. The hook chooses by the job's name,
so that no reload comes between.
"""

from __future__ import annotations

import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TypedDict, cast

from tests.bench.bench import DIVERTED, Bench
from tests.bench.figure import Figure, spread
from tests.rig.overspill_conf import ROUTER_SOCKET
from tests.rig.slurm_conf import OVERSPILL_PARTITION

#: mode=on and the answer "it stays"; the answer "divert"; and no question at all.
STAYS, DIVERTS, NOOP = "stays", "diverts", "noop"
#: No hook at all.
BARE = "bare"
_FILLING = NOOP + "-filling"
_HOOK = f"""\
local overspill = require "overspill"
local gettime = require("socket").gettime
function slurm_job_submit(job_desc, part_list, submit_uid)
  local began = gettime()
  local result = slurm.SUCCESS
  if not job_desc.name:find("^{NOOP}") then
    result = overspill.submit(job_desc, part_list, submit_uid)
  end
  slurm.log_info("%s", string.format("bench: %s took %d us", job_desc.name, (gettime() - began) * 1e6))
  return result
end
function slurm_job_modify()
  return slurm.SUCCESS
end
return slurm.SUCCESS
"""
_ROUNDS_IDLE, _ROUNDS_FULL = 3, 2
_PACED = 200
#: Spreads a block of both labels over at least one refresh of the sidecar (5 s).
_PERIOD_S = 0.02
_CROWD = 20
_CROWD_JOBS = 300
_PENDING = 10_000
_DECISIONS = 2_000
_HANGS = 5
_AFTER_A_HANG = 20
_BUDGETS = {50: "< 1.1x", 99: "< 1.3x"}


class _Times(TypedDict):
    latencies_ms: dict[str, list[float]]
    took_s: float


@dataclass
class _Samples:
    """What blocks have yielded so far, by label."""

    alone_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    crowd_rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    in_hook_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    diverted_shares: list[float] = field(default_factory=list)


def measure(bench: Bench) -> Iterator[Figure]:
    bench.rig.cluster.write("/home/alice/job.sh", "#!/bin/bash\n:\n", user="alice")
    with bench.full_nodes():
        _load_hook(bench)
        yield from _with_queue(bench, "idle", _ROUNDS_IDLE)
        yield from _hung(bench)
        bench.say(f"filling the queue with {_PENDING} jobs")
        _submit(bench, [_FILLING] * _PENDING, at_once=_CROWD)
        yield from _with_queue(bench, f"{_PENDING:,} pending", _ROUNDS_FULL)
        yield from _decisions(bench)
        bench.say("emptying the queue")
        bench.cancel_all()


def _with_queue(bench: Bench, queue: str, rounds: int) -> Iterator[Figure]:
    samples = _Samples()
    for number in range(rounds):
        bench.say(f"{queue}, round {number + 1} of {rounds}")
        with _stopped_sidecar(bench), _without_hook(bench):
            _block(bench, samples, [BARE])
        with _stopped_sidecar(bench):
            _block(bench, samples, [NOOP])
        bench.wait_until_diverting()
        _block(bench, samples, [STAYS, DIVERTS])
        samples.diverted_shares.append(_share_diverted(bench))
        _cancel(bench)
    yield from spread(f"no-op hook, {queue}", samples.alone_ms[NOOP], samples.alone_ms[BARE], against="no hook")
    for label in (STAYS, DIVERTS):
        what = f"sbatch, job {label}, {queue}"
        alone, in_hook = samples.alone_ms, samples.in_hook_ms
        yield from spread(what, alone[label], alone[NOOP], against="no-op hook", budgets=_BUDGETS)
        yield from spread("  of it in the hook", in_hook[label])
        rate, noop_rate = (median(samples.crowd_rates[name]) for name in (label, NOOP))
        yield Figure(
            f"{what}, {_CROWD} at once", "jobs/s", rate, noop_rate, "no-op hook", ">= 0.9x", _CROWD_JOBS * rounds
        )
    yield Figure(f"diverted of those to be, {queue}", "%", min(samples.diverted_shares) * 100, budget="100 %")


def _block(bench: Bench, samples: _Samples, labels: Sequence[str]) -> None:
    """Submit alone, the labels in turn; then, label by label, many at once."""
    for label, times_ms in _submit(bench, [*labels] * _PACED)["latencies_ms"].items():
        samples.alone_ms[label] += times_ms
    log = bench.rig.cluster.path("/var/log/slurm/slurmctld.log").read_text()
    for label in labels:
        # The last ones: those of earlier blocks are in the log, too.
        took_us = [int(number) for number in re.findall(rf"bench: {label} took (\d+) us", log)]
        samples.in_hook_ms[label] += [number / 1e3 for number in took_us[-_PACED:]]
    for label in labels:
        took_s = _submit(bench, [label] * _CROWD_JOBS, at_once=_CROWD)["took_s"]
        samples.crowd_rates[label].append(_CROWD_JOBS / took_s)


def _submit(bench: Bench, order: Sequence[str], *, at_once: int = 1) -> _Times:
    """Submit a job per label of `order`."""
    options = {DIVERTS: [DIVERTED]}
    commands = {
        label: ["sbatch", "--output=/dev/null", f"--job-name={label}", *options.get(label, []), "job.sh"]
        for label in set(order)
    }
    work = {"commands": commands, "order": order, "at_once": at_once, "period_s": _PERIOD_S}
    return cast("_Times", bench.run_inside("submit.py", stdin=work))


def _share_diverted(bench: Bench) -> float:
    """Return how many of those that were to be diverted wait in the overspill partition."""
    listing = ["squeue", "--noheader", "--user=alice", "--states=PENDING", f"--name={DIVERTS}", "--format=%P"]
    partitions = bench.rig.cluster.run(listing, check=True).stdout.split()
    return partitions.count(OVERSPILL_PARTITION) / len(partitions)


def _cancel(bench: Bench) -> None:
    """Cancel what the last round has left; slurmctld answers when they are gone from the queue."""
    names = f"--name={BARE},{NOOP},{STAYS},{DIVERTS}"
    bench.rig.cluster.run(["scancel", "--user=alice", names], check=True, timeout=120.0)


@contextmanager
def _stopped_sidecar(bench: Bench) -> Iterator[None]:
    router = bench.rig.cluster.daemon("router")
    router.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        router.signal(signal.SIGCONT)


@contextmanager
def _without_hook(bench: Bench) -> Iterator[None]:
    """Have slurmctld load no job_submit plugin."""
    path = bench.rig.cluster.path("/etc/slurm/slurm.conf")
    with_hook = path.read_text()
    bench.rig.cluster.write("/etc/slurm/slurm.conf", re.sub(r"(?m)^JobSubmitPlugins=.*\n", "", with_hook))
    bench.rig.cluster.run(["scontrol", "reconfigure"], check=True)
    try:
        yield
    finally:
        bench.rig.cluster.write("/etc/slurm/slurm.conf", with_hook)
        bench.rig.cluster.run(["scontrol", "reconfigure"], check=True)
        _load_hook(bench)


def _load_hook(bench: Bench) -> None:
    bench.load_hook(_HOOK)
    _submit(bench, [NOOP, STAYS])
    _cancel(bench)


def _hung(bench: Bench) -> Iterator[Figure]:
    """Stop the sidecar: the first sbatch pays the deadline, the following must pay nothing."""
    bench.say(f"hung sidecar, {_HANGS} times")
    first_ms: list[float] = []
    after_ms: dict[str, list[float]] = defaultdict(list)
    for _ in range(_HANGS):
        _load_hook(bench)
        with _stopped_sidecar(bench):
            first_ms += _submit(bench, [STAYS])["latencies_ms"][STAYS]
            for label, times_ms in _submit(bench, [STAYS, NOOP] * _AFTER_A_HANG)["latencies_ms"].items():
                after_ms[label] += times_ms
        bench.wait_until_diverting()
    noop_ms = median(after_ms[NOOP])
    hook, budget = "no-op hook", "<= 50 ms more"
    yield Figure("sidecar hung: the first sbatch, worst", "ms", max(first_ms), noop_ms, hook, budget, _HANGS)
    yield spread("sidecar hung: the following", after_ms[STAYS], after_ms[NOOP], against=hook, budgets={50: "1.0x"})[0]
    _load_hook(bench)


def _decisions(bench: Bench) -> Iterator[Figure]:
    bench.say(f"{_DECISIONS} decisions, with {_PENDING} pending")
    answer = bench.run_inside("ask_router.py", ROUTER_SOCKET, str(_DECISIONS), user="slurm")
    times_ms = cast("dict[str, list[float]]", answer)["latencies_ms"]
    yield from spread(f"Decide, {_PENDING:,} pending", times_ms, budgets={50: "< 0.3 ms", 99: "< 5 ms"})
