"""What the sidecar costs: Decide over its socket, and bytes through the relay.

    .venv/bin/python -m tests.bench.sidecar

Decide is asked of a separate process that refreshes from canned squeue output all the while. Output goes from an agent
in a process of its own, over mutual TLS, through the relay in another, into a reader in this one.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from overspill.proxy_framing import OFFSETS, OUTPUT, FrameType
from overspill.tls import TlsFiles
from overspill.v1 import router_pb2
from overspill.v1.router_pb2_grpc import RouterStub
from overspill_sidecar.history import PastJob
from overspill_sidecar.wait import OnlineModel
from overspill_sidecar.wait.replay import warm_up
from overspill_sidecar.wait.state import save
from tests.integration.sidecar_agent import Certificates, FakeAgent
from tests.integration.sidecar_road import Proxy, road

_RECORDED = Path(__file__).parents[1] / "unit" / "slurm_22_05"
_CALLS = 5_000
_OUTPUT_BYTES = 1024**3
_ECHOES = 2_000
_WAITS, _LEARNED_JOBS = "waits.state", 2_000


def _programs(directory: Path, pending: int) -> None:
    """Write stand-ins for Slurm's commands; squeue prints `pending` more jobs than were recorded."""
    jobs = (_RECORDED / "jobs.txt").read_bytes()
    record = next(line for line in jobs.splitlines() if line.startswith(b"28\x1f"))
    records = (
        record.replace(b"28\x1f", b"%d\x1f" % (1000 + number), 1)
        .replace(b"long", b"batch")
        .replace(b"UNLIMITED", b"%d:00" % (10 + number % 50))
        for number in range(pending)
    )
    (directory / "jobs.txt").write_bytes(jobs + b"".join(line + b"\n" for line in records))
    choose = 'case "$*" in *partition) f=partitions;; *node) f=nodes;; *) f=config;; esac'
    squeue = f'sed "s/\\x1e/${{SQUEUE_FORMAT2##*:}}/" {directory}/jobs.txt'
    scripts = {"squeue": squeue, "scontrol": f"{choose}; cat {_RECORDED}/$f.txt"}
    for name, script in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)


@contextmanager
def _sidecar(directory: Path, tls: TlsFiles, port: int) -> Iterator[Path]:
    socket = directory / "router.sock"
    config = directory / "sidecar.toml"
    files = {"records": "decisions.db", "accounts": "accounts.db", "waits": _WAITS}
    router = "".join(f'{key} = "{directory / name}"\n' for key, name in files.items())
    config.write_text(
        f'[slurm]\nrefresh_s = 5\n[router]\nsocket = "{socket}"\n{router}'
        f'[relay]\nsocket = "{directory}/relay.sock"\nrecords = "{directory}/events.db"\n'
        f'[[sites]]\nname = "site-a"\npartition = "overspill"\nagent = "localhost:{port}"\n'
        f'tls = {{ certificate = "{tls.certificate}", private_key = "{tls.private_key}", ca = "{tls.ca}" }}\n'
    )
    environment = os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}
    argv = [sys.executable, "-m", "overspill_sidecar", "run", "--config", str(config)]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield socket
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _ask(stub: RouterStub) -> tuple[float, str]:
    request = router_pb2.DecideRequest(has_script=True, num_tasks=1, time_limit_min=10, user_id=2001, is_dry_run=True)
    began = time.perf_counter()
    reason = stub.Decide(request, timeout=30, wait_for_ready=True).reason
    return time.perf_counter() - began, reason


def _learn(path: Path) -> None:
    """Keep a wait model that has seen enough jobs to be asked."""
    model = OnlineModel(64)
    drawn = random.Random(1)  # noqa: S311 - no secret
    past = (
        PastJob(
            job_id=str(number),
            submit_s=number * 60.0,
            start_s=number * 60.0 + drawn.expovariate(1 / 900),
            end_s=number * 60.0 + 7200,
            cpus=drawn.choice((1, 2, 4, 8)),
            time_limit_s=drawn.choice((600, 3600, 86400)),
            user=f"user{drawn.randrange(50)}",
            partition=drawn.choice(("batch", "long")),
        )
        for number in range(_LEARNED_JOBS)
    )
    warm_up(model, past)
    save(model, path)


async def _bench_decide(pending: int, *, is_learned: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _programs(directory, pending)
        if is_learned:
            _learn(directory / _WAITS)
        agent = FakeAgent(Certificates(directory / "tls"))
        await agent.start()
        with _sidecar(directory, agent.certificates.files("cluster", "rig"), agent.port) as socket:
            what = f"Decide, {pending:6} pending, waits {'learned' if is_learned else 'planned'}"
            await asyncio.to_thread(_measure_decide, socket, what)
        await agent.stop()


def _measure_decide(socket: Path, what: str) -> None:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        stub = RouterStub(channel)
        while _ask(stub)[1] in {"mode_off", "site_unreachable"}:
            time.sleep(0.1)
        samples = []
        for _ in range(_CALLS):
            samples.append(_ask(stub)[0])
            time.sleep(0.002)
        reason = _ask(stub)[1]
    _report(f"{what} ({reason})", samples)


def _report(what: str, samples: list[float]) -> None:
    samples.sort()
    p50, p99 = statistics.median(samples), samples[len(samples) * 99 // 100]
    print(f"{what}: p50 {p50 * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us, max {samples[-1] * 1e6:.0f} us")


async def _bench_relay() -> None:
    with tempfile.TemporaryDirectory() as name:
        async with road(Path(name)) as way:
            proxy = await way.running()
            run = way.agent.run
            run.stdout = bytearray(_OUTPUT_BYTES)
            began = time.perf_counter()
            await run.write(b".")
            received = 0
            while received <= _OUTPUT_BYTES:
                received += await _take(proxy)
            took = time.perf_counter() - began
            print(f"relay with agent, TLS and reader in one process: {_OUTPUT_BYTES / took / 1e6:.0f} MB/s")
            samples = []
            for _ in range(_ECHOES):
                await asyncio.sleep(0.001)
                began = time.perf_counter()
                await run.write(b".")
                await _take(proxy)
                samples.append(time.perf_counter() - began)
            _report("remote write -> proxy's socket", samples)


async def _take(proxy: Proxy) -> int:
    frame_type, payload = await proxy.next()
    if frame_type is not FrameType.OUTPUT:
        return 0
    size = len(payload) - OUTPUT.size
    proxy.output[1] = bytearray()
    _, offset = OUTPUT.unpack_from(payload)
    await proxy.send(FrameType.ACK, OFFSETS.pack(offset + size, 0))
    return size


async def _main() -> None:
    for pending in (0, 10_000):
        for is_learned in (False, True):
            await _bench_decide(pending, is_learned=is_learned)
    await _bench_relay()


if __name__ == "__main__":
    asyncio.run(_main())
