"""Jobs that ask for GPUs: where they go, and what their own partition would have given them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.cluster import ClusterConfig, GpuDefaults, Partition
from overspill_sidecar.decision.capacity import Amount, SiteCapacity, SlotGroup
from overspill_sidecar.decision.decide import Decision, Verdict, decide
from overspill_sidecar.decision.shape import Pins
from overspill_sidecar.decision.situation import Situation
from overspill_sidecar.policy import parse_policy
from overspill_sidecar.wait import WaitEstimate
from tests.unit.sidecar_cluster import CONFIG, IDLE_SITE, NOW_S, OVERSPILL, full_batch, partition, queue, snapshot

_TOTAL = Amount(8, 16384, 4)


def _situation(
    own: Partition | None = None, target: Partition = OVERSPILL, config: ClusterConfig = CONFIG, gpus: int = 4
) -> Situation:
    of = snapshot(*full_batch(), partitions=(own or partition(), target), config=config)
    of = replace(of, nodes={**of.nodes, "ovs1": replace(of.nodes["ovs1"], gpus=gpus)})
    return Situation(
        policy=parse_policy(CONFIG.parameters)[0],
        queue=queue(of),
        sites=[replace(IDLE_SITE, capacity=SiteCapacity(_TOTAL, _TOTAL, _TOTAL))],
        promised={},
        predict=lambda _: WaitEstimate(3600, is_upper_bound=True),
        unix_time_s=NOW_S,
    )


def _decide(situation: Situation | None = None, **fields: Any) -> Decision:
    plain = {"user_id": 2001, "has_script": True, "time_limit_min": 10, "num_tasks": 1, "tres": ["gres:gpu:1"]}
    request = DecideRequest(**{**plain, "tres_scopes": ["job"], **fields})
    return decide(request, situation or _situation(), "d-1")


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({}, 1),
        ({"tres": ["gpu"]}, 1),
        ({"tres": ["gpu:2"], "tres_scopes": ["node"]}, 2),
        ({"tres": ["gres/gpu:1"], "tres_scopes": ["task"], "num_tasks": 3}, 3),
    ],
)
def test_a_job_that_asks_for_a_number_of_gpus_goes_where_they_are(fields: dict[str, Any], gpus: int) -> None:
    decision = _decide(**fields)
    assert decision.verdict is Verdict.DIVERT
    assert decision.shape is not None
    assert decision.shape.gpus == gpus


@pytest.mark.parametrize(
    "fields",
    [
        {"tres": ["gres:gpu:a100:1,gpu:1"]},
        {"tres": ["gres:gpu:1,gres:craynetwork:1"]},
        {"tres": ["gres:fpga:1"]},
        {"tres_scopes": []},
        {"tres_scopes": ["socket"]},
        {"tres": ["gpu:1", "gpu:1"], "tres_scopes": ["job", "node"]},
        {"cpus_per_tres": "gres:fpga:1"},
        {"mem_per_tres": "1G"},
    ],
)
def test_any_other_generic_resource_keeps_the_job(fields: dict[str, Any]) -> None:
    assert _decide(**fields).reason == "gres"


def _typed(*groups: SlotGroup, of_node: frozenset[str] = frozenset({"a100", "t4"})) -> Situation:
    """Return a situation in which the virtual node has GPUs of these types, and the site these slots."""
    plain = _situation()
    assert plain.queue is not None
    room = replace(plain.queue.rooms["overspill"], gpu_types=of_node)
    capacity = SiteCapacity(_TOTAL, _TOTAL, _TOTAL, slots=groups)
    return replace(
        plain,
        queue=replace(plain.queue, rooms={**plain.queue.rooms, "overspill": room}),
        sites=[replace(IDLE_SITE, capacity=capacity)],
    )


_A100 = SlotGroup(1, Amount(4, 8192, 2), Amount(4, 8192, 2), "a100")
_T4 = SlotGroup(2, Amount(2, 4096, 1), Amount(2, 4096, 1), "t4")


@pytest.mark.parametrize("tres", ["gres:gpu:a100:2", "gres/gpu:A100:2", "gpu:a100:1", "gres:gpu:t4"])
def test_gpus_of_a_type_go_where_node_and_slots_have_it(tres: str) -> None:
    decision = _decide(_typed(_A100, _T4), tres=[tres])
    assert decision.verdict is Verdict.DIVERT
    assert decision.shape is not None
    assert decision.shape.gpu_type in {"a100", "t4"}


@pytest.mark.parametrize(
    ("situation", "tres", "reason"),
    [
        (_typed(_T4), "gpu:a100:1", "gpu_type"),
        (_typed(_A100, of_node=frozenset()), "gpu:a100:1", "gpu_type"),
        (_typed(), "gpu:a100:1", "gpu_type"),
        (_typed(_A100, _T4), "gpu:t4:2", "larger_than_slot"),
        (_typed(_T4), "gpu:2", "larger_than_slot"),
        (_typed(_A100, replace(_T4, free=Amount())), "gpu:t4:1", "no_free_slot"),
    ],
)
def test_gpus_that_no_slot_has_keep_the_job(situation: Situation, tres: str, reason: str) -> None:
    assert _decide(situation, tres=[tres]).reason == reason


def test_more_gpus_than_slurm_knows_there_keep_the_job() -> None:
    assert _decide(tres=["gpu:5"]).reason == "larger_than_node"
    assert _decide(_situation(gpus=0)).reason == "larger_than_node"
    assert _decide(_situation(gpus=8), tres=["gpu:5"]).reason == "larger_than_site"


@pytest.mark.parametrize(
    ("own", "cluster", "fields", "pins"),
    [
        (GpuDefaults(2, 300), GpuDefaults(), {}, Pins(memory_per_gpu_mib=300, cpus_per_gpu=2)),
        (GpuDefaults(), GpuDefaults(2, 300), {}, Pins(memory_per_gpu_mib=300, cpus_per_gpu=2)),
        (GpuDefaults(3), GpuDefaults(2, 300), {}, Pins(memory_per_gpu_mib=300, cpus_per_gpu=3)),
        (GpuDefaults(2, 300), GpuDefaults(), {"memory_per_node_mib": 50}, Pins(cpus_per_gpu=2)),
        (GpuDefaults(2, 300), GpuDefaults(), {"mem_per_tres": "gres:gpu:50"}, Pins(cpus_per_gpu=2)),
        (GpuDefaults(2, 300), GpuDefaults(), {"cpus_per_tres": "gres:gpu:1"}, Pins(memory_per_gpu_mib=300)),
        (GpuDefaults(), GpuDefaults(), {}, Pins(memory_per_cpu_mib=100)),
    ],
)
def test_what_a_gpu_brings_at_home_is_pinned(
    own: GpuDefaults, cluster: GpuDefaults, fields: dict[str, Any], pins: Pins
) -> None:
    situation = _situation(partition(gpu_defaults=own), config=replace(CONFIG, gpu_defaults=cluster))
    assert _decide(situation, **fields).pins == pins


def test_cpus_and_memory_per_gpu_count_for_the_size_of_the_job() -> None:
    own = partition(gpu_defaults=GpuDefaults(2, 300))
    shape = _decide(_situation(own), tres=["gpu:3"]).shape
    assert shape is not None
    assert (shape.cpus, shape.memory_mib) == (6, 900)
    shape = _decide(tres=["gpu:3"], cpus_per_tres="gpu:2", mem_per_tres="gpu:50").shape
    assert shape is not None
    assert (shape.cpus, shape.memory_mib) == (6, 150)


def test_defaults_for_gpus_that_would_change_the_job_keep_it() -> None:
    own = partition(gpu_defaults=GpuDefaults(2, 300))
    assert _decide(_situation(own), cpus_per_task=1).reason == "gpu_default_unclear"
    target = replace(OVERSPILL, gpu_defaults=GpuDefaults(4))
    assert _decide(_situation(target=target)).reason == "target_gpu_default"
    assert _decide(_situation(target=target), cpus_per_tres="gpu:1").verdict is Verdict.DIVERT


def test_a_job_without_gpus_gets_none_of_their_defaults() -> None:
    own = partition(gpu_defaults=GpuDefaults(2, 300))
    assert _decide(_situation(own), tres=[], tres_scopes=[]).pins == Pins(memory_per_cpu_mib=100)
