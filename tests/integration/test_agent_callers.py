"""Who may ask an agent for what: clusters apart from each other, claims, TLS 1.3, and certificates that come and go."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from overspill.certificates import new_key, signing_request
from overspill.tls import TlsFiles, WatchedTls, open_channel
from overspill.v1 import agent_pb2 as pb
from overspill.v1.agent_pb2_grpc import AgentStub
from tests.integration.agent_relay import Relay, relay_of, spec_of
from tests.integration.agent_site import CLUSTER, Site

_SCRIPT = b"#!/bin/sh\necho mine\n"


async def _refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def _requested(relay: Relay, change: Callable[[pb.SubmitRequest], None]) -> grpc.aio.AioRpcError:
    request = relay.request(spec_of(_SCRIPT))
    change(request)
    return await _refusal(relay.stub.Submit(request, timeout=10))


def _without_claim(request: pb.SubmitRequest) -> None:
    request.claim = ""


def _of_another_script(request: pb.SubmitRequest) -> None:
    request.spec.script = b"#!/bin/sh\necho other\n"


def _of_another_user(request: pb.SubmitRequest) -> None:
    request.spec.user_name = "bob"


def _of_another_attempt(request: pb.SubmitRequest) -> None:
    request.request_id.restart_count += 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without_claim, "carries no claim"),
        (_of_another_script, "script_sha256"),
        (_of_another_user, "user_name"),
        (_of_another_attempt, "request_id"),
    ],
)
async def test_a_submit_without_its_claim_is_refused_and_leaves_nothing(
    relay: Relay, change: Callable[[pb.SubmitRequest], None], told: str
) -> None:
    before = len((await relay.stub.ListRuns(pb.ListRunsRequest())).runs)
    error = await _requested(relay, change)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert told in (error.details() or "")
    assert len((await relay.stub.ListRuns(pb.ListRunsRequest())).runs) == before


async def test_a_claim_signed_by_another_cluster_is_refused(relay: Relay, site: Site) -> None:
    async with relay_of(site, certificate="other", cluster=CLUSTER) as stranger:
        stolen = stranger.request(spec_of(_SCRIPT)).claim
    request = relay.request(spec_of(_SCRIPT))
    request.claim = stolen
    error = await _refusal(relay.stub.Submit(request, timeout=10))
    assert (error.code(), "signed for other" in (error.details() or "")) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_a_request_id_of_another_cluster_says_nothing_of_its_run(relay: Relay, site: Site) -> None:
    request = relay.request(spec_of(_SCRIPT))
    await relay.stub.Submit(request, timeout=10)
    async with relay_of(site, certificate="other", cluster=CLUSTER) as stranger:
        error = await _refusal(stranger.stub.Submit(request, timeout=10))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        capacity = stranger.stub.Capacity(pb.CapacityRequest(slurm_cluster=CLUSTER), timeout=10)
        assert (await _refusal(capacity)).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_a_cluster_sends_in_megabytes_comes_to_a_few_lines(relay: Relay, site: Site) -> None:
    before, long = site.log_path.stat().st_size, "m" * 4_000_000
    unsigned = pb.SubmitRequest(request_id=relay.request_id(), spec=spec_of(_SCRIPT, user_name=long, account=long))
    assert (await _refusal(relay.stub.Submit(unsigned, timeout=30))).code() is grpc.StatusCode.PERMISSION_DENIED
    signed = relay.request(spec_of(_SCRIPT, user_name=long[:5000]))
    error = await _refusal(relay.stub.Submit(signed, timeout=30))
    assert (error.details() or "") == f"user '{long[:5000]}"[:1000]
    capacity = relay.stub.Capacity(pb.CapacityRequest(slurm_cluster=long), timeout=30)
    assert (await _refusal(capacity)).code() is grpc.StatusCode.PERMISSION_DENIED
    assert site.log_path.stat().st_size - before < 5_000
    assert f"({len(long)} characters)" in site.log_path.read_text()


async def test_a_certificate_of_somebody_elses_authority_is_not_renewed_here(relay: Relay) -> None:
    request = pb.RenewRequest(signing_request=signing_request(new_key()))
    error = await _refusal(relay.stub.Renew(request, timeout=10))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "renew it where it was issued" in (error.details() or "")


async def test_a_site_without_an_authority_enrolls_nobody(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.root / "ca.crt"))
    reader, writer = await asyncio.open_connection("localhost", site.runner_port, ssl=context)
    writer.write(b"GET /v1/ca HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"404" in (await reader.read()).split(b"\r\n")[0]
    writer.close()


@pytest.mark.parametrize("port", ["grpc_port", "runner_port"])
def test_a_port_of_the_agent_speaks_nothing_below_tls_1_3(site: Site, port: str) -> None:
    results = {version: _handshake(site, getattr(site, port), version) for version in _VERSIONS}
    assert results == {ssl.TLSVersion.TLSv1_2: None, ssl.TLSVersion.TLSv1_3: "TLSv1.3"}


_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def _handshake(site: Site, port: int, version: ssl.TLSVersion) -> str | None:
    """Return the version that the handshake came to, None if it failed."""
    context = ssl.create_default_context(cafile=str(site.root / "ca.crt"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(site.root / "cluster.crt", site.root / "cluster.key")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("localhost", port), timeout=30) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                return wrapped.version()
        except (ssl.SSLError, ConnectionError):
            return None


async def test_as_a_client_we_speak_nothing_below_tls_1_3(site: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(site.root / "site.crt", site.root / "site.key")
    context.set_alpn_protocols(["h2"])
    connected = asyncio.Event()

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_channel(f"localhost:{port}", site.tls().read()) as channel:
            error = await _refusal(AgentStub(channel).ListRuns(pb.ListRunsRequest(), timeout=10))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not connected.is_set()


async def test_replaced_files_are_used_from_the_next_connection_on(site: Site) -> None:
    """The agent shows what is in its files, and keeps what it had while they make no sense."""
    before = _shown(site)
    files = TlsFiles(site.root / "site.crt", site.root / "site.key", site.root / "ca.crt")
    watched = WatchedTls(files)
    held = watched.current()
    files.certificate.write_bytes((site.root / "other.crt").read_bytes())
    assert watched.current() is held
    assert _shown(site) == before
    issued = site.authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(files.private_key))
    issued.cert_chain_pems[0].write_to_path(str(files.certificate))
    assert watched.current() is not held
    assert _shown(site) != before
    async with relay_of(site) as relay:
        assert (await relay.run(_SCRIPT)).stdout == b"mine\n"


def _shown(site: Site) -> list[bytes | None]:
    """Return the certificates that both ports show."""
    shown = []
    for port in (site.grpc_port, site.runner_port):
        context = ssl.create_default_context(cafile=str(site.root / "ca.crt"))
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(site.root / "cluster.crt", site.root / "cluster.key")
        with (
            socket.create_connection(("localhost", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            shown.append(wrapped.getpeercert(binary_form=True))
    return shown
