"""A back end against what it drives, in the same run: `docker run`, `condor_submit`, `htcondor2`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from tests.bench import cancellation, output_latency, peers
from tests.bench.bench import DIVERTED, Bench
from tests.bench.figure import Figure, spread
from tests.bench.first_line import first_line_ms
from tests.bench.launch_rate import launch
from tests.rig import SiteBackend

_ROUNDS = 10
_RUNS = 200
_SCRIPT = "echo here"

Peer = Callable[[Bench, str], float]


def first_line(bench: Bench, peer: Peer, against: str, budget: str) -> Iterator[Figure]:
    """Slurm starts the job -> first line in the user's file, and the peer's command -> its first line, in turn."""
    bench.say(f"{_ROUNDS} jobs each way, one after the other")
    ours_ms, theirs_ms = [], []
    for _ in range(_ROUNDS):
        ours_ms.append(first_line_ms(bench, DIVERTED, _SCRIPT))
        theirs_ms.append(peer(bench, _SCRIPT) * 1e3)
    yield spread("start to first line", ours_ms, theirs_ms, against=against, budgets={50: budget})[0]


def burst(bench: Bench, peer: Callable[[Bench, str, int], float], against: str) -> Iterator[Figure]:
    """200 runs that may all start at once, until all are complete; then as many by the peer's command."""
    bench.say(f"{_RUNS} jobs")
    rate = launch(bench, DIVERTED, ":", jobs=_RUNS).jobs_per_s
    bench.say(f"{_RUNS} by {against}")
    yield Figure(f"{_RUNS} runs, first start to last end", "runs/s", rate, peer(bench, ":", _RUNS), against)


def latency(bench: Bench) -> Iterator[Figure]:
    """Remote write() -> byte in the user's file, and scancel -> the script's handler, against a local job."""
    yield from output_latency.measure(bench)
    yield from cancellation.measure(bench)


MEASUREMENTS: Mapping[str, tuple[SiteBackend, Callable[[Bench], Iterator[Figure]]]] = {
    "docker-first-line": (
        SiteBackend.DOCKER,
        partial(first_line, peer=peers.docker_first_line_s, against="docker run", budget="<= 1.5x"),
    ),
    "docker-latency": (SiteBackend.DOCKER, latency),
    "docker-burst": (SiteBackend.DOCKER, partial(burst, peer=peers.docker_runs_per_s, against="docker run")),
    "condor-first-line": (
        SiteBackend.HTCONDOR,
        partial(first_line, peer=peers.condor_first_line_s, against="condor_submit", budget="<= 1.1x"),
    ),
    "condor-latency": (SiteBackend.HTCONDOR, latency),
    "condor-burst": (SiteBackend.HTCONDOR, partial(burst, peer=peers.condor_runs_per_s, against="raw htcondor2")),
}
