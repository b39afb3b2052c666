"""What the relay costs: bytes through it, with agent and reader in the same process.

    .venv/bin/python -m tests.bench.relay

Output goes from the agent over mutual TLS.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from overspill.proxy_framing import OFFSETS, OUTPUT, FrameType
from tests.integration.sidecar_road import Proxy, road

_OUTPUT_BYTES = 1024**3
_ECHOES = 2_000


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


if __name__ == "__main__":
    asyncio.run(_bench_relay())
