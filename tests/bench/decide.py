"""What `Decide` costs while everything else goes on, as slurmctld sees it and as the router does.

    .venv/bin/python -m tests.bench.decide [SECONDS [QUESTIONS A SECOND]]

A router in a process of its own, at its unit's priority, is asked 30 times a second by the submit hook's own client
in Lua. 10,000 unlike jobs are pending and 2,000 run; every 5 s some of them come, start and end and it looks at the
queue, every 10 s at all pending jobs (a site has room), every 45 s it saves what it has learned, and in between it fits
trees. Slurm's commands are stand-ins that print a file.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from overspill.v1 import agent_pb2
from overspill_sidecar.wait import trees
from overspill_sidecar.wait.state import save
from tests.bench.figure import percentile
from tests.bench.moving_queue import MovingQueue, experienced_model
from tests.integration.sidecar_agent import Certificates, FakeAgent

_PENDING, _RUNNING, _LEARNED_JOBS = 10_000, 2_000, 3_000
_SECONDS, _A_SECOND, _STEP_S = 60.0, 30.0, 5.0
_NICENESS = -5
_SETTLE_S = 30.0
_SHIM = Path(__file__).parents[2] / "slurm_plugin" / "job_submit"
_LUA = Path(__file__).with_name("inside") / "ask_by_shim.lua"
_UP_DEADLINE_S = 120.0
_BUCKET = re.compile(r'^overspill_decision_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
_LOOKS = re.compile(r"^overspill_snapshot_seconds_(count|sum) (\S+)$", re.MULTILINE)
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Place:
    directory: Path
    agent: FakeAgent

    @property
    def socket(self) -> Path:
        return self.directory / "router.sock"

    @property
    def log(self) -> Path:
        return self.directory / "router.log"

    @property
    def metrics_port(self) -> int:
        return self.agent.port + 1


def _configure(place: _Place) -> Path:
    directory, tls = place.directory, place.agent.certificates.files("cluster", "rig")
    files = {"records": "decisions.db", "accounts": "accounts.db", "waits": "waits.state"}
    path = directory / "sidecar.toml"
    path.write_text(
        f'[slurm]\nrefresh_s = {_STEP_S}\n[router]\nsocket = "{place.socket}"\n'
        + "".join(f'{key} = "{directory / name}"\n' for key, name in files.items())
        + f'[metrics]\nlisten = "127.0.0.1:{place.metrics_port}"\n'
        f'[[sites]]\nname = "site-a"\npartition = "overspill"\nagent = "localhost:{place.agent.port}"\n'
        f'tls = {{ certificate = "{tls.certificate}", private_key = "{tls.private_key}", ca = "{tls.ca}" }}\n'
    )
    return path


@contextmanager
def _router(place: _Place) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"PATH": f"{place.directory}:{os.environ['PATH']}"}
    argv = ["nice", "-n", str(_NICENESS), sys.executable, "-m", "tests.bench.eager_sidecar", "run"]
    argv += ["--role", "router", "--config", str(_configure(place))]
    with place.log.open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


@contextmanager
def _moving(queue: MovingQueue) -> Iterator[None]:
    stop = threading.Event()

    def move() -> None:
        while not stop.wait(_STEP_S):
            queue.step()

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _idle_router(place: _Place) -> Iterator[Path]:
    """Serve beside it one that does nothing for its answers: it shows what the machine makes of any."""
    socket = place.directory / "idle.sock"
    argv = ["nice", "-n", str(_NICENESS), sys.executable, "-m", "tests.bench.idle_router", str(socket)]
    process = subprocess.Popen(argv)
    try:
        yield socket
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class _Answer:
    took_ms: float
    reason: str
    #: "new" or "like" one before.
    kind: str


def _ask(socket: Path, seconds: float, a_second: float) -> list[_Answer]:
    argv = ["lua", str(_LUA), str(_SHIM), str(socket), str(seconds), str(a_second)]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    lines = (line.split("\t") for line in printed.splitlines())
    return [_Answer(float(took_ms), reason, kind) for took_ms, reason, kind in lines]


def _wait_until_deciding(place: _Place) -> None:
    """Wait until the router answers by what it has learned.

    Raises:
        RuntimeError: after two minutes.
    """
    ends_at = time.monotonic() + _UP_DEADLINE_S
    while time.monotonic() < ends_at:
        if place.socket.exists() and any("wait" in answer.reason for answer in _ask(place.socket, 0.3, _A_SECOND)):
            return
    raise RuntimeError(f"the router does not decide: {place.log.read_text()[-2000:]}")


def _metrics(place: _Place) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{place.metrics_port}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def _decided_within(before: str, after: str) -> Mapping[float, float]:
    """Return the share of the decisions between two scrapes that took no longer than each bound, in seconds."""
    counts = [{float(bound): float(count) for bound, count in _BUCKET.findall(text)} for text in (before, after)]
    taken = {bound: count - counts[0].get(bound, 0.0) for bound, count in counts[1].items()}
    return {bound: count / taken[float("inf")] for bound, count in taken.items()}


def _resident_mib(process: subprocess.Popen[bytes]) -> int:
    found = _RESIDENT.search(Path(f"/proc/{process.pid}/status").read_text())
    return int(found[1]) // 1024 if found else 0


def _show(what: str, answers: Sequence[_Answer]) -> None:
    took_ms = [answer.took_ms for answer in answers]
    spread = {f"p{percent}": percentile(took_ms, percent) for percent in (50, 90, 99, 99.9, 100)}
    print(f"{what} ({len(answers)}): " + ", ".join(f"{name} {value:.2f} ms" for name, value in spread.items()))


def _report(asked: Sequence[_Answer], before: str, after: str) -> None:
    shares = ", ".join(
        f"{share:.2%} in {bound * 1e3:g} ms" for bound, share in _decided_within(before, after).items() if share
    )
    print(f"in the router: {shares}")
    looks = [dict(_LOOKS.findall(text)) for text in (before, after)]
    count, total_s = (float(looks[1][what]) - float(looks[0][what]) for what in ("count", "sum"))
    print(f"answers: {dict(Counter(answer.reason for answer in asked))}")
    print(f"looks at the queue: {count:g}, {total_s / max(1, count):.2f} s each")


async def _main(seconds: float = _SECONDS, a_second: float = _A_SECOND) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = _Place(Path(name), FakeAgent(Certificates(Path(name) / "tls")))
        place.agent.total = place.agent.free = agent_pb2.Resources(cpus=4096, memory_mib=16_384_000)
        await place.agent.start()
        model = experienced_model(_LEARNED_JOBS)
        if trees.are_available():
            model.take_trees(trees.fit(model.training_set(time.time())))
            # So that they are fitted anew within the measurement.
            model.fitted_at = 1
        save(model, place.directory / "waits.state")
        queue = MovingQueue(place.directory, _PENDING, _RUNNING)
        with _idle_router(place) as idle_socket, _router(place) as process, _moving(queue):
            await asyncio.to_thread(_wait_until_deciding, place)
            # The first look at pending jobs asks about all of them.
            await asyncio.sleep(_SETTLE_S)
            loads, before, began_mib = [os.getloadavg()[0]], _metrics(place), _resident_mib(process)
            asking = (asyncio.to_thread(_ask, socket, seconds, a_second) for socket in (place.socket, idle_socket))
            asked, asked_idle = await asyncio.gather(*asking)
            after, ended_mib = _metrics(place), _resident_mib(process)
            loads.append(os.getloadavg()[0])
            is_saved = (place.directory / "waits.state").stat().st_mtime > time.time() - seconds
        events = Counter(re.findall(r'"action": ?"((?:wait_model|late)\w*)"', place.log.read_text()))
        await place.agent.stop()
    for kinds in (("new", "like"), ("new",), ("like",)):
        _show(f"as slurmctld sees it, jobs {' and '.join(kinds)}", [each for each in asked if each.kind in kinds])
    _show("the same of a router that does nothing", asked_idle)
    _report(asked, before, after)
    print(f"memory {began_mib} MiB, then {ended_mib} MiB; load average {loads[0]:.1f} to {loads[1]:.1f}")
    print(f"what was learned {'was' if is_saved else 'was not'} saved meanwhile; in the log: {dict(events)}")


if __name__ == "__main__":
    asyncio.run(_main(*map(float, sys.argv[1:])))
