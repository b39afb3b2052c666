"""Who and what is turned away, with which status, and without a traceback."""

import asyncio
import datetime as dt
import ssl
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme

from overspill.tls import TlsFiles, open_channel
from overspill.v1 import agent_pb2 as pb
from overspill.v1.agent_pb2_grpc import AgentStub
from tests.integration.agent_relay import Followed, Relay, relay_of, spec_of
from tests.integration.agent_site import CLUSTER, Site


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert "Traceback" not in (error.value.details() or "")
    assert ".py" not in (error.value.details() or "")
    return error.value


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"cwd": b"home/alice"}, grpc.StatusCode.INVALID_ARGUMENT, "spec.cwd must be an absolute path"),
        ({"cwd": b"/home/../etc"}, grpc.StatusCode.INVALID_ARGUMENT, "spec.cwd"),
        ({"cwd": b"/home/\0"}, grpc.StatusCode.INVALID_ARGUMENT, "spec.cwd"),
        ({"cwd": b"/proc/1"}, grpc.StatusCode.INVALID_ARGUMENT, "spec.cwd lies in /proc, /sys, /dev or /.overspill"),
        ({"cwd": b"//sys/x"}, grpc.StatusCode.INVALID_ARGUMENT, "submit the job from another one"),
        ({"cwd": b"/.overspill"}, grpc.StatusCode.INVALID_ARGUMENT, "spec.cwd"),
        ({"argv": [b"/dev/x/slurm_script"]}, grpc.StatusCode.INVALID_ARGUMENT, "spec.argv[0]"),
        ({"argv": []}, grpc.StatusCode.INVALID_ARGUMENT, "spec.argv must begin with the script's absolute path"),
        ({"argv": [b"slurm_script"]}, grpc.StatusCode.INVALID_ARGUMENT, "spec.argv"),
        ({"environment": [b"NOVALUE"]}, grpc.StatusCode.INVALID_ARGUMENT, "spec.environment"),
        ({"umask": 0o10000}, grpc.StatusCode.INVALID_ARGUMENT, "spec.umask"),
        ({"umask": 2**31}, grpc.StatusCode.INVALID_ARGUMENT, "spec.umask"),
        ({"script": b""}, grpc.StatusCode.INVALID_ARGUMENT, "spec.script is empty"),
        ({"user_name": "mallory"}, grpc.StatusCode.PERMISSION_DENIED, "has no account at this site"),
        ({"user_name": "root"}, grpc.StatusCode.PERMISSION_DENIED, "belongs to the system"),
        ({"user_name": "daemon"}, grpc.StatusCode.PERMISSION_DENIED, "belongs to the system"),
        ({"user_name": "ghost"}, grpc.StatusCode.PERMISSION_DENIED, "has no user 'ghost'"),
        ({"resources": pb.Resources(cpus=9)}, grpc.StatusCode.FAILED_PRECONDITION, "asks for 9 CPUs"),
        ({"resources": pb.Resources(memory_mib=99999)}, grpc.StatusCode.FAILED_PRECONDITION, "99999 MiB"),
        ({"image": "base"}, grpc.StatusCode.FAILED_PRECONDITION, "no image 'base'; its jobs run in no image"),
        ({"constraint": "overspill&avx2"}, grpc.StatusCode.FAILED_PRECONDITION, "no machine with the feature 'avx2'"),
        ({"constraint": "a|b"}, grpc.StatusCode.FAILED_PRECONDITION, "only features joined by & are"),
        ({"resources": pb.Resources(gpus=1)}, grpc.StatusCode.FAILED_PRECONDITION, "1 GPUs"),
    ],
)
async def test_a_run_that_cannot_be_is_refused_and_leaves_nothing(
    relay: Relay, changes: dict[str, Any], code: grpc.StatusCode, told: str
) -> None:
    before = len((await relay.stub.ListRuns(pb.ListRunsRequest())).runs)
    request = relay.request(spec_of(**{"script": b"#!/bin/sh\n", **changes}))
    error = await refusal(relay.stub.Submit(request))
    assert error.code() is code
    assert told in (error.details() or "")
    assert len((await relay.stub.ListRuns(pb.ListRunsRequest())).runs) == before


async def test_a_feature_that_the_site_has_is_told_and_taken(relay: Relay) -> None:
    told = await relay.stub.Capacity(pb.CapacityRequest(slurm_cluster=CLUSTER))
    assert (list(told.features), told.backend, told.HasField("start_delay_ms")) == (["avx512"], "local", False)
    followed = await relay.run(b"#!/bin/sh\necho ran\n", constraint="overspill&avx512")
    assert followed.stdout == b"ran\n"
    told = await relay.stub.Capacity(pb.CapacityRequest(slurm_cluster=CLUSTER))
    assert 0 < told.start_delay_ms < 60_000


async def test_a_cluster_cannot_speak_for_another(relay: Relay) -> None:
    request = relay.request(spec_of(b"#!/bin/sh\n"), relay.request_id(slurm_cluster="other"))
    error = await refusal(relay.stub.Submit(request))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "the certificate is for rig" in (error.details() or "")


async def test_a_cluster_never_sees_anothers_runs(relay: Relay, site: Site) -> None:
    run_id = await relay.submit(b"#!/bin/sh\necho mine\n")
    async with relay_of(site, certificate="other", cluster="other") as stranger:
        calls = [
            stranger.stub.Stop(pb.StopRequest(run_id=run_id)),
            stranger.stub.Release(pb.ReleaseRequest(run_id=run_id)),
            stranger.stub.Signal(pb.SignalRequest(run_id=run_id, signal=9, scope=pb.SIGNAL_SCOPE_TREE, signal_seq=1)),
            stranger.follow(run_id),
        ]
        never = await refusal(stranger.stub.Stop(pb.StopRequest(run_id="0" * 32)))
        for call in calls:
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert (error.details() or "").replace(run_id, "0" * 32) == never.details()
        assert not (await stranger.stub.ListRuns(pb.ListRunsRequest())).runs
        own = await stranger.submit(b"#!/bin/sh\necho other\n")
        assert (await stranger.follow(own)).stdout == b"other\n"
    assert (await relay.follow(run_id)).stdout == b"mine\n"


async def test_a_run_that_has_not_ended_cannot_be_released(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\n", has_stdin=True)
    error = await refusal(relay.stub.Release(pb.ReleaseRequest(run_id=run_id)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    await relay.stub.Stop(pb.StopRequest(run_id=run_id))
    await relay.follow(run_id)


@pytest.mark.parametrize(
    "changes", [{"signal": 0}, {"signal": 65}, {"scope": pb.SIGNAL_SCOPE_UNSPECIFIED}, {"signal_seq": 0}]
)
async def test_a_signal_that_makes_no_sense_is_refused(relay: Relay, changes: dict[str, Any]) -> None:
    fields = {"run_id": "x", "signal": 15, "scope": pb.SIGNAL_SCOPE_TREE, "signal_seq": 1, **changes}
    error = await refusal(relay.stub.Signal(pb.SignalRequest(**fields)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_attach_that_does_not_open_is_refused(relay: Relay) -> None:
    call = relay.stub.Attach()
    await call.write(pb.AttachRequest(acknowledged=pb.OutputOffsets()))
    error = await refusal(call.read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_signal_or_stop_after_the_end_is_fine(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\n")
    await relay.follow(run_id)
    signal = pb.SignalRequest(run_id=run_id, signal=15, scope=pb.SIGNAL_SCOPE_TREE, signal_seq=1)
    await relay.stub.Signal(signal)
    await relay.stub.Stop(pb.StopRequest(run_id=run_id, reason="late"))
    ended = (await relay.follow(run_id, Followed())).ended
    assert ended is not None
    assert ended.outcome == pb.RUN_OUTCOME_COMPLETED


def certificate_files(directory: Path, authority: trustme.CA, **changes: Any) -> TlsFiles:
    issued = authority.issue_cert(CLUSTER, **changes)
    issued.private_key_pem.write_to_path(str(directory / "x.key"))
    issued.cert_chain_pems[0].write_to_path(str(directory / "x.crt"))
    return TlsFiles(directory / "x.crt", directory / "x.key", directory / "ca.crt")


async def test_a_certificate_of_another_authority_is_not_let_in(site: Site, tmp_path: Path) -> None:
    site.authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    files = certificate_files(tmp_path, trustme.CA())
    async with open_channel(f"localhost:{site.grpc_port}", files.read()) as channel:
        error = await refusal(AgentStub(channel).Capacity(pb.CapacityRequest(slurm_cluster="rig"), timeout=5))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_expired_certificate_is_not_let_in(site: Site, tmp_path: Path) -> None:
    site.authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    files = certificate_files(tmp_path, site.authority, not_after=yesterday)
    async with open_channel(f"localhost:{site.grpc_port}", files.read()) as channel:
        error = await refusal(AgentStub(channel).Capacity(pb.CapacityRequest(slurm_cluster="rig"), timeout=5))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_no_certificate_is_not_let_in(site: Site) -> None:
    credentials = grpc.ssl_channel_credentials(root_certificates=(site.root / "ca.crt").read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{site.grpc_port}", credentials) as channel:
        error = await refusal(AgentStub(channel).Capacity(pb.CapacityRequest(slurm_cluster="rig"), timeout=5))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_runner_channel_speaks_tls_1_3_only(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.root / "ca.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("localhost", site.runner_port, ssl=context)
