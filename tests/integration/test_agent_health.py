"""The agent's health as a probe asks for it, and its metrics over mutual TLS."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from overspill.tls import open_channel
from overspill.v1 import agent_pb2 as pb
from tests.integration.agent_relay import Relay, spec_of
from tests.integration.agent_site import DEADLINE_S, Site, running_site
from tests.integration.sidecar_road import eventually_async
from tests.scraped import Metrics

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_AGENT = "overspill.v1.Agent"


@asynccontextmanager
async def _probe(site: Site) -> AsyncIterator[Any]:
    """Give the health service's stub, whose type stubs know none of its methods."""
    async with open_channel(f"localhost:{site.grpc_port}", site.tls("cluster").read()) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def _health(site: Site, service: str) -> int:
    async with _probe(site) as probe:
        return int((await probe.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)).status)


async def _until(site: Site, wanted: int) -> None:
    async def is_so() -> bool:
        return await _health(site, _AGENT) == wanted

    await eventually_async(is_so, f"the agent's health is {wanted}")


async def test_a_healthy_agent_serves(site: Site) -> None:
    assert await _health(site, "") == _SERVING
    assert await _health(site, _AGENT) == _SERVING


async def test_a_service_that_nobody_knows_is_not_found(site: Site) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _health(site, "overspill.v1.Nobody")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_agent_whose_disk_is_full_lives_but_takes_no_runs_until_there_is_room(tmp_path: Path) -> None:
    with running_site(tmp_path, state_size="32m") as site:
        assert site.process is not None
        filler = Path(f"/proc/{site.process.pid}/root{site.state_inside}/filler")
        await asyncio.to_thread(filler.write_bytes, b"x" * 30 * 1024 * 1024)
        await _until(site, _NOT_SERVING)
        assert await _health(site, "") == _SERVING
        await asyncio.to_thread(filler.unlink)
        await _until(site, _SERVING)
        log = site.log_path.read_text()
    assert "but for its reserve" in log
    assert log.index("agent_not_serving") < log.index('"agent_serving"')


async def test_a_watch_is_told_that_the_agent_goes_down(tmp_path: Path) -> None:
    with running_site(tmp_path) as site:
        async with _probe(site) as probe:
            watch = probe.Watch(health_pb2.HealthCheckRequest(service=_AGENT), timeout=DEADLINE_S)
            assert (await watch.read()).status == _SERVING
            stopping = asyncio.create_task(asyncio.to_thread(site.stop))
            assert (await watch.read()).status == _NOT_SERVING
            await stopping


def _metrics(site: Site, certificate: str | None = "cluster") -> Metrics:
    """Scrape the agent, showing this certificate."""
    context = ssl.create_default_context(cafile=str(site.root / "ca.crt"))
    if certificate:
        context.load_cert_chain(site.root / f"{certificate}.crt", site.root / f"{certificate}.key")
    url = f"https://localhost:{site.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE_S, context=context) as answer:
        return Metrics(answer.read().decode())


async def test_the_metrics_over_tls_move_with_a_run(site: Site, relay: Relay) -> None:
    before = await asyncio.to_thread(_metrics, site)
    run_id = await relay.submit(b"#!/bin/sh\necho 0123456789\n")
    await relay.follow(run_id)
    after = await asyncio.to_thread(_metrics, site)
    for name, by, labels in (
        ("overspill_submits_total", 1, {"cluster": "rig", "result": "accepted"}),
        ("overspill_runs_ended_total", 1, {"outcome": "COMPLETED"}),
        ("overspill_output_bytes_total", 11, {"stream": "stdout"}),
        ("overspill_launch_seconds_count", 1, {}),
    ):
        assert after.sum(name, **labels) - before.sum(name, **labels) == by, name
    assert after.sum("overspill_agent_serving") == 1


async def test_a_refused_submission_is_counted_by_its_kind_and_makes_no_label_of_a_strangers_name(
    site: Site, relay: Relay
) -> None:
    before = await asyncio.to_thread(_metrics, site)
    for script, user_name in ((b"#!/bin/sh\n", "mallory"), (b"", "alice")):
        with pytest.raises(grpc.aio.AioRpcError):
            await relay.submit(script, user_name=user_name)
    request = pb.SubmitRequest(request_id=pb.RequestId(slurm_cluster="mallory's", slurm_job_id=1), spec=spec_of(b"#!"))
    with pytest.raises(grpc.aio.AioRpcError):
        await relay.stub.Submit(request)
    after = await asyncio.to_thread(_metrics, site)
    for cluster, result in (("rig", "not_permitted"), ("rig", "invalid_request"), ("unknown", "not_permitted")):
        moved = [at.sum("overspill_submits_total", cluster=cluster, result=result) for at in (before, after)]
        assert moved[1] - moved[0] == 1, (cluster, result)


def test_nobody_without_a_certificate_reads_the_metrics(site: Site) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
        _metrics(site, certificate=None)


async def test_an_agent_whose_store_takes_no_write_takes_no_runs_until_it_does(own_site: Site) -> None:
    with closing(sqlite3.connect(own_site.state / "agent.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await _until(own_site, _NOT_SERVING)
        other.execute("ROLLBACK")
    await _until(own_site, _SERVING)


def test_strangers_at_every_port_come_to_a_few_lines_of_json_in_the_log(own_site: Site) -> None:
    for port in (own_site.grpc_port, own_site.runner_port, own_site.metrics_port):
        for _ in range(60):
            _send_rubbish(port)
    lines = own_site.log_path.read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert len(lines) < 60


def _send_rubbish(port: int) -> None:
    """Speak no TLS, then no HTTP within TLS; wait for the answer, so that what it makes the agent say is said."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with suppress(ConnectionError):
            plain.recv(1)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    with raw, suppress(OSError), context.wrap_socket(raw) as tls:
        tls.sendall(b"\xff rubbish\r\n\r\n")
        tls.recv(1)
