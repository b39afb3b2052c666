"""Metrics over HTTP: who is answered, with what, and what happens where the address cannot be had."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry, Counter

from overspill.metrics import MetricsServer, describe_process
from overspill.metrics.check import check_metrics
from overspill.tls import TlsFiles
from tests.integration.agent_site import free_port

_DEADLINE_S = 30.0


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("overspill_things_total", "Things.", registry=registry).inc(3)
    return registry


@asynccontextmanager
async def _serving(listen: str, tls: TlsFiles | None = None) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(MetricsServer([_registry()], listen, tls).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _ask(
    port: int, path: str = "/metrics", method: str = "GET", context: ssl.SSLContext | None = None
) -> tuple[int, str]:
    """Ask, again for as long as nobody listens yet."""
    give_up_at = time.monotonic() + _DEADLINE_S
    while True:
        connection = (
            http.client.HTTPSConnection("localhost", port, timeout=_DEADLINE_S, context=context)
            if context
            else http.client.HTTPConnection("localhost", port, timeout=_DEADLINE_S)
        )
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except ConnectionRefusedError:
            assert time.monotonic() < give_up_at, "nobody listens"
        finally:
            connection.close()


async def _asked(port: int, path: str = "/metrics", **how: object) -> tuple[int, str]:
    return await asyncio.to_thread(_ask, port, path, **how)  # type: ignore[arg-type]


async def test_metrics_are_served_as_text() -> None:
    port = free_port()
    async with _serving(f"127.0.0.1:{port}"):
        status, body = await _asked(port)
    assert status == 200
    assert "overspill_things_total 3.0" in body.splitlines()


async def test_only_reading_the_metrics_is_answered() -> None:
    port = free_port()
    async with _serving(f"127.0.0.1:{port}"):
        assert (await _asked(port, "/"))[0] == 404
        assert (await _asked(port, method="POST"))[0] == 405
        assert await _asked(port, method="HEAD") == (200, "")
        assert (await _asked(port, "/metrics?name[]=x"))[0] == 200


async def test_rubbish_and_silence_keep_nobody_else_from_the_metrics() -> None:
    port = free_port()
    async with _serving(f"127.0.0.1:{port}"):
        await _asked(port)
        with socket.create_connection(("127.0.0.1", port)) as rubbish:
            rubbish.sendall(b"\xff" * 40_000)
            silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
            assert (await _asked(port))[0] == 200
            for connection in silent:
                connection.close()


async def test_more_connections_than_anybody_needs_are_closed() -> None:
    port = free_port()
    async with _serving(f"127.0.0.1:{port}"):
        await _asked(port)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(_DEADLINE_S):
            assert await reader.read() == b""
        writer.close()
        for connection in silent:
            connection.close()


async def test_a_unix_socket_is_for_our_own_user_and_takes_the_place_of_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with _serving(f"unix:{path}"), asyncio.timeout(_DEADLINE_S):
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(path)
                break
            except (ConnectionRefusedError, FileNotFoundError):
                await asyncio.sleep(0.01)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200")
        assert path.stat().st_mode & 0o077 == 0


async def test_a_taken_port_is_told_once_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with _serving(f"127.0.0.1:{port}") as task:
            told = ""
            async with asyncio.timeout(_DEADLINE_S):
                while "metrics_not_served" not in told:
                    await asyncio.sleep(0.01)
                    told += capsys.readouterr().out
            assert not task.done()
    assert str(port) in told


class _Pki:
    """A server's files, and what clients show."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.authority = trustme.CA()
        self.server = self.files("server", self.authority.issue_cert("localhost"))

    def files(self, name: str, issued: trustme.LeafCert) -> TlsFiles:
        certificate, key, ca = (self._directory / f"{name}.{kind}" for kind in ("crt", "key", "ca"))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        self.authority.cert_pem.write_to_path(str(ca))
        return TlsFiles(certificate, key, ca)

    def client(self, shows: trustme.LeafCert | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        if shows:
            shows.configure_cert(context)
        return context


async def test_with_tls_only_a_client_with_a_certificate_of_the_ca_is_answered(tmp_path: Path) -> None:
    pki, port = _Pki(tmp_path), free_port()
    async with _serving(f"127.0.0.1:{port}", pki.server):
        status, body = await _asked(port, context=pki.client(pki.authority.issue_cert("prometheus")))
        assert status == 200
        assert "overspill_things_total" in body
        for nobody in (None, trustme.CA().issue_cert("prometheus")):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
                await _asked(port, context=pki.client(nobody))
        older = pki.client(pki.authority.issue_cert("prometheus"))
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            await _asked(port, context=older)


async def test_a_replaced_certificate_is_shown_from_the_next_connection_on(tmp_path: Path) -> None:
    pki, port = _Pki(tmp_path), free_port()
    async with _serving(f"127.0.0.1:{port}", pki.server):
        client = pki.client(pki.authority.issue_cert("prometheus"))
        assert (await _asked(port, context=client))[0] == 200
        before = await asyncio.to_thread(_shown, port, client)
        pki.files("server", pki.authority.issue_cert("localhost"))
        assert (await _asked(port, context=client))[0] == 200
        assert await asyncio.to_thread(_shown, port, client) != before


def _shown(port: int, context: ssl.SSLContext) -> bytes | None:
    """Return the certificate that the server shows, DER."""
    raw = socket.create_connection(("localhost", port), timeout=_DEADLINE_S)
    with context.wrap_socket(raw, server_hostname="localhost") as tls:
        return tls.getpeercert(binary_form=True)


def test_a_certificates_end_is_told_and_an_unreadable_one_counts_as_ended(tmp_path: Path) -> None:
    pki = _Pki(tmp_path)
    registry = CollectorRegistry()
    describe_process(registry, [pki.server.certificate, tmp_path / "gone.crt"])
    name = "overspill_certificate_expiry_timestamp_seconds"
    ends = registry.get_sample_value(name, {"path": str(pki.server.certificate)})
    assert ends is not None
    assert ends > 1_700_000_000
    assert registry.get_sample_value(name, {"path": str(tmp_path / "gone.crt")}) == 0


async def test_check_tells_our_metrics_from_another_programs_and_from_nobodys() -> None:
    port = free_port()
    listen = f"127.0.0.1:{port}"

    def found(*, has_tls: bool = False) -> list[str]:
        return [f"{finding.level}: {finding.says}" for finding in check_metrics(listen, has_tls=has_tls)]

    assert "warning: nobody answers" in (await asyncio.to_thread(found))[0]
    async with _serving(listen):
        await _asked(port)
        assert await asyncio.to_thread(found) == [f"warning: another program answers on {listen}"]
        assert await asyncio.to_thread(lambda: found(has_tls=True)) == [f"ok: they are served on {listen}"]
    registry = CollectorRegistry()
    describe_process(registry, [])
    server = asyncio.create_task(MetricsServer([registry], listen, None).run())
    await _asked(port)
    assert await asyncio.to_thread(found) == [f"ok: they are served on {listen}"]
    server.cancel()
    await asyncio.wait([server])
