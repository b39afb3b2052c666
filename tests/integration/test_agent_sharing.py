"""One site for two clusters: images, limits, and slots that are promised once. The back end is the shipped fake."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from overspill.v1 import agent_pb2 as pb
from tests.integration.agent_relay import Relay, relay_of, spec_of
from tests.integration.agent_site import CLUSTER, Site, running_site
from tests.integration.test_agent_refusals import refusal

SCRIPT = b"#!/bin/sh\n"
IMAGES = """
[images.base]
reference = "base:13"
default = true
[images.bench]
reference = "bench:13"
features = ["bench"]
max_cpus = 2
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    limits = "[clusters.other]\nmax_cpus = 6\nmax_runs = 2\nmax_spec_kib = 8\n"
    with running_site(tmp_path, sections=limits, fake_slots="4,4", images=IMAGES) as site:
        yield site


@pytest.fixture
async def rig(site: Site) -> AsyncIterator[Relay]:
    async with relay_of(site) as relay:
        yield relay


@pytest.fixture
async def other(site: Site) -> AsyncIterator[Relay]:
    async with relay_of(site, certificate="other", cluster="other") as relay:
        yield relay


async def _capacity(relay: Relay, slurm_cluster: str = CLUSTER) -> pb.CapacityResponse:
    return await relay.stub.Capacity(pb.CapacityRequest(slurm_cluster=slurm_cluster))


async def _cpus_free(relay: Relay, slurm_cluster: str = CLUSTER) -> list[int]:
    """Return what is free in each slot, the most first."""
    groups = (await _capacity(relay, slurm_cluster)).slots
    return [cpus for group in groups for cpus in [group.free.cpus] * group.count]


def _asking_for(relay: Relay, cpus: int) -> pb.SubmitRequest:
    return relay.request(spec_of(SCRIPT, resources=pb.Resources(cpus=cpus, memory_mib=1)))


async def test_two_clusters_that_ask_at_once_never_have_the_same_slot(rig: Relay, other: Relay) -> None:
    requests = [(relay, _asking_for(relay, 3)) for relay in (rig, other, rig, other)]
    answers = await asyncio.gather(*(relay.stub.Submit(request) for relay, request in requests))
    assert len({answer.run_id for answer in answers}) == 4
    assert await _cpus_free(rig) == [1, 1]
    error = await refusal(other.stub.Submit(_asking_for(other, 1)))
    assert error.details() == "the cluster has 2 unfinished runs here, and may have 2"


async def test_a_slot_is_no_longer_told_of_once_a_run_is_accepted_and_again_when_it_has_ended(
    rig: Relay, other: Relay
) -> None:
    accepted = await rig.stub.Submit(_asking_for(rig, 4))
    assert await _cpus_free(other, "other") == [4, 0]
    error = await refusal(other.stub.Submit(_asking_for(other, 5)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    await rig.stub.Stop(pb.StopRequest(run_id=accepted.run_id))
    await rig.follow(accepted.run_id)
    assert await other.stub.Submit(_asking_for(other, 4))


async def test_a_cluster_is_told_what_its_own_runs_have_whatever_others_have(rig: Relay, other: Relay) -> None:
    assert (await _capacity(rig)).used == pb.Resources()
    await rig.stub.Submit(_asking_for(rig, 3))
    await other.stub.Submit(_asking_for(other, 2))
    assert (await _capacity(rig)).used == pb.Resources(cpus=3, memory_mib=1)
    assert (await _capacity(other, "other")).used == pb.Resources(cpus=2, memory_mib=1)


async def test_a_request_that_is_repeated_when_the_site_is_full_gets_its_run(rig: Relay) -> None:
    requests = [_asking_for(rig, 4), _asking_for(rig, 4)]
    first = [await rig.stub.Submit(request) for request in requests]
    again = await asyncio.gather(*(rig.stub.Submit(request) for request in requests))
    assert [answer.run_id for answer in again] == [answer.run_id for answer in first]


async def test_a_cluster_is_told_of_no_more_than_its_limits_and_refused_beyond(rig: Relay, other: Relay) -> None:
    told = await _capacity(other, "other")
    assert (told.total.cpus, told.free.cpus, told.largest_free.cpus) == (6, 6, 4)
    assert await _cpus_free(other, "other") == [4, 2]
    await other.stub.Submit(_asking_for(other, 3))
    assert sum(await _cpus_free(other, "other")) == 3
    error = await refusal(other.stub.Submit(_asking_for(other, 4)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "may have 6" in (error.details() or "")
    await other.stub.Submit(_asking_for(other, 1))
    error = await refusal(other.stub.Submit(_asking_for(other, 1)))
    assert error.details() == "the cluster has 2 unfinished runs here, and may have 2"
    assert await _cpus_free(other, "other") == [0, 0]
    assert sum(await _cpus_free(rig)) == 4


async def test_a_spec_that_is_too_large_for_its_cluster_is_refused(rig: Relay, other: Relay) -> None:
    script = SCRIPT + b"#" * 8192
    error = await refusal(other.stub.Submit(other.request(spec_of(script))))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "this site takes 8 KiB" in (error.details() or "")
    assert await rig.submit(script)


async def test_the_catalogue_is_told_and_chooses(rig: Relay, site: Site) -> None:
    told = await _capacity(rig)
    assert (list(told.images), list(told.features)) == (["base", "bench"], ["bench"])
    await rig.submit(SCRIPT, image="bench", resources=pb.Resources(cpus=2, memory_mib=1))
    await rig.submit(SCRIPT, constraint="overspill&bench")
    for spec, words in (
        ({"image": "nothing"}, "it offers base, bench"),
        ({"image": "bench", "resources": pb.Resources(cpus=3)}, "runs of at most 2 CPUs"),
    ):
        error = await refusal(rig.stub.Submit(rig.request(spec_of(SCRIPT, **spec))))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert words in (error.details() or "")
