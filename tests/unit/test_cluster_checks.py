"""What `overspill check` and `overspill nodes` make of a cluster, as far as that is pure."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from overspill.cli.finding import Finding, Level
from overspill.v1.sidecar_pb2 import SiteSlots, SiteStatus
from overspill_sidecar.checks import cluster_wide, daemons, nodes, policy
from overspill_sidecar.cluster import Snapshot
from overspill_sidecar.commands.node_lines import Lines, Offer, lines_for
from overspill_sidecar.commands.slurm_conf import Slurm, parse_config_values
from overspill_sidecar.config import SidecarConfig
from overspill_sidecar.slurm import queries

_RECORDED = Path(__file__).parent / "slurm_22_05"
_TLS = {"certificate": "/c", "private_key": "/k", "ca": "/a"}


def _config(**site: object) -> SidecarConfig:
    known = {"name": "site-a", "partition": "overspill", "agent": "site:7443", "tls": _TLS}
    return SidecarConfig.model_validate({"sites": [known | site]})


def _slurm(node: dict[str, str] | None = None, **values: str) -> Slurm:
    text = {name: (_RECORDED / f"{name}.txt").read_bytes().decode() for name in ("config", "partitions", "nodes")}
    raw = {}
    for line in text["nodes"].splitlines():
        pairs = dict(word.partition("=")[::2] for word in reversed(line.split()) if "=" in word)
        raw[pairs["NodeName"]] = pairs | (node or {})
    snapshot = Snapshot(
        asked_at=0.0,
        unix_time_s=0.0,
        config=queries.parse_config(text["config"]),
        jobs=(),
        partitions=queries.parse_partitions(text["partitions"]),
        nodes=queries.parse_nodes(text["nodes"]),
    )
    return Slurm(parse_config_values(text["config"]) | values, snapshot, MappingProxyType(raw))


def test_words_that_name_nobody_and_nothing_are_pointed_out() -> None:
    slurm = _slurm()
    words = "overspill_mode=on,overspill_from=batch+lnog,overspill_wait=-5,overspill_deny_users=root+no-such-user"
    config = replace(slurm.snapshot.config, parameters=(words,))
    slurm = replace(slurm, snapshot=replace(slurm.snapshot, config=config))
    found = {finding.subject: finding for finding in policy.look(slurm, _config()) if finding.level is not Level.OK}
    assert found.keys() == {
        "slurm.conf: overspill_wait=-5",
        "slurm.conf: overspill_from",
        "slurm.conf: overspill_deny_users",
    }
    assert "knows no partition lnog" in found["slurm.conf: overspill_from"].says
    users = found["slurm.conf: overspill_deny_users"]
    assert (users.level, users.says) == (
        Level.ERROR,
        "this host knows no user no-such-user, who may be anybody, so the word keeps all jobs here",
    )
    assert users.remedy == "correct the word, or see `getent passwd no-such-user`"


def test_a_task_prolog_runs_for_diverted_jobs_if_it_is_there(tmp_path: Path) -> None:
    prolog = tmp_path / "prolog"
    slurm = _slurm(TaskProlog=str(prolog))
    assert _cluster_wide(slurm)["slurm.conf: TaskProlog"].level is Level.WARNING
    prolog.touch(mode=0o755)
    assert _cluster_wide(slurm)["slurm.conf: TaskProlog"].level is Level.OK


def _cluster_wide(slurm: Slurm) -> dict[str, Finding]:
    return {finding.subject: finding for finding in cluster_wide.look(slurm, None)}


@pytest.mark.parametrize(
    ("hosts", "is_told"),
    [
        (["alias(10.0.0.1)", "other(10.0.0.2)"], True),
        (["HERE.example(10.0.0.1)", "other(10.0.0.2)"], False),
        (["alias(10.0.0.1)"], False),  # it is the only one
    ],
)
def test_a_router_of_several_that_does_not_find_its_own_name_is_pointed_out(
    tmp_path: Path, hosts: list[str], *, is_told: bool
) -> None:
    here = socket.gethostname().partition(".")[0]
    named = [host.replace("HERE", here) for host in hosts]
    slurm = _slurm()
    values = {**slurm.values, **{f"SlurmctldHost[{number}]": host for number, host in enumerate(named)}}
    acting = named[0].partition("(")[0] if len(named) > 1 else ""
    known = replace(slurm.snapshot, config=replace(slurm.snapshot.config, acting_controller=acting))
    socket_path = tmp_path / "router.sock"
    config = SidecarConfig.model_validate({**_config().model_dump(), "router": {"socket": str(socket_path)}})

    def found() -> set[str]:
        return {finding.subject for finding in cluster_wide.look(replace(slurm, values=values, snapshot=known), config)}

    assert "slurm.conf: SlurmctldHost" not in found()  # no router here
    socket_path.touch()
    assert ("slurm.conf: SlurmctldHost" in found()) == is_told


def _lines(slurm: Slurm, offer: Offer, **site: object) -> Lines:
    return lines_for(slurm, _config(**site), {"site-a": offer}, "overspill1")


def test_a_site_without_nodes_gets_one_on_a_free_port_of_the_host() -> None:
    node, partition = _lines(_slurm(), Offer(64, 256_000), name="site-a", partition="ovs-a").slurm_conf[-2:]
    assert node.startswith("NodeName=ovs-site-a NodeHostname=overspill1 Port=")
    ports = {int(it["Port"]) for it in _slurm().nodes.values()}
    assert int(node.partition(" Port=")[2].split()[0]) not in ports
    assert "CPUs=64 Sockets=1 CoresPerSocket=64 ThreadsPerCore=1 RealMemory=256000" in node
    assert partition.startswith("PartitionName=ovs-a Nodes=ovs-site-a Default=NO MaxNodes=1 ")
    assert "DefMemPerCPU=" in partition


def test_threads_per_core_are_those_of_the_real_nodes_and_cpus_are_whole_cores() -> None:
    node, _ = _lines(_slurm(node={"ThreadsPerCore": "2"}), Offer(65, 256_000)).slurm_conf[-2:]
    assert "CPUs=64 Sockets=1 CoresPerSocket=32 ThreadsPerCore=2" in node


def test_gpus_get_a_gres_line_with_a_file_each() -> None:
    lines = _lines(_slurm(), Offer(8, 1000, gpus=4))
    assert " Gres=gpu:4 " in lines.slurm_conf[-2]
    assert lines.gres_conf[-1].endswith("Name=gpu File=/var/lib/overspill/gpus/ovs1-[0-3]")
    assert any(line.startswith("GresTypes=") for line in lines.slurm_conf)


def test_gpus_of_several_types_get_their_own_lines_and_files() -> None:
    slots = (
        SiteSlots(count=2, cpus=16, memory_mib=1000, gpus=2, gpu_type="a100"),
        SiteSlots(count=1, cpus=8, memory_mib=500, gpus=1, gpu_type="t4"),
        SiteSlots(count=4, cpus=8, memory_mib=500),
    )
    lines = _lines(_slurm(), Offer(72, 4500, 5, slots, ("avx2", "hpl", "x Gres=gpu:9")))
    assert " Gres=gpu:a100:4,gpu:t4:1 Features=overspill,avx2,hpl State=" in lines.slurm_conf[-2]
    assert lines.gres_conf[1:] == [
        "NodeName=ovs1 Name=gpu Type=a100 File=/var/lib/overspill/gpus/ovs1-[0-3]",
        "NodeName=ovs1 Name=gpu Type=t4 File=/var/lib/overspill/gpus/ovs1-[4-4]",
    ]
    assert lines.notes[-1] == (
        "site-a: a job runs on one of its 7 slots, so the largest has 16 CPUs, 1000 MiB, 2 GPUs: fewer than its node."
        " Larger ones stay here."
    )


def test_gpus_whose_types_are_not_all_told_have_none() -> None:
    slots = (SiteSlots(count=2, gpus=1, gpu_type="a100"), SiteSlots(count=1, gpus=1, gpu_type="x y"))
    assert Offer(8, 1000, 3, slots).gpu_kinds() == [("", 3)]
    assert Offer(8, 1000, 2, slots[:1]).gpu_kinds() == [("a100", 2)]
    assert Offer(8, 1000, 7, slots[:1]).gpu_kinds() == [("", 7)]


def test_a_site_that_is_one_slot_needs_no_word_on_it() -> None:
    one = (SiteSlots(count=1, cpus=8, memory_mib=1000),)
    assert not [note for note in _lines(_slurm(), Offer(8, 1000, 0, one)).notes if "slots" in note]


def test_a_tree_topology_gets_a_switch_for_the_site() -> None:
    lines = _lines(_slurm(TopologyPlugin="topology/tree"), Offer(8, 1000))
    assert lines.topology_conf == ["SwitchName=overspill-site-a Nodes=ovs1"]


def test_words_that_are_there_are_kept() -> None:
    lines = _lines(_slurm(SlurmdParameters="l3cache_as_socket", JobSubmitPlugins="defaults"), Offer(8, 1000))
    assert "SlurmdParameters=l3cache_as_socket,config_overrides" in lines.slurm_conf
    assert "JobSubmitPlugins=defaults,lua" in lines.slurm_conf


def _nodes(slurm: Slurm, **site: object) -> dict[str, Finding]:
    found = nodes.look(slurm, _config(**site), {})
    return {finding.subject: finding for finding in found if finding.level is Level.ERROR}


@pytest.mark.parametrize(
    ("state", "reason", "remedy"),
    [
        ("IDLE+DRAIN", "Low RealMemory (reported:100 < 256000)", "config_overrides"),
        ("DOWN+NOT_RESPONDING", "Not responding", "start slurmd -N ovs1"),
        ("IDLE+DRAIN", "overspill: site-a is unreachable", "the sidecar drained it"),
        ("IDLE+DRAIN", "gres/gpu count reported lower than configured (0 < 8)", "gres.conf"),
        ("IDLE+DRAIN", "cleaning", "State=RESUME"),
    ],
)
def test_a_virtual_node_that_takes_no_job_is_told_with_what_to_do(state: str, reason: str, remedy: str) -> None:
    slurm = _slurm(node={"State": state})
    node = replace(slurm.snapshot.nodes["ovs1"], is_usable=False, reason=reason)
    slurm = replace(slurm, snapshot=replace(slurm.snapshot, nodes={**slurm.snapshot.nodes, "ovs1": node}))
    assert remedy in _nodes(slurm)["virtual node ovs1"].remedy


def test_two_slurmd_of_a_host_on_one_port_are_an_error() -> None:
    slurm = _slurm(node={"Port": "17001", "NodeHostName": "h"})
    assert "only one of them can be up" in _nodes(slurm)["virtual node ovs1: port"].says


def _contact(**fields: object) -> dict[str, Finding]:
    known = {"name": "site-a", "agent": "site:7443", "is_reachable": True, "total_cpus": 8}
    status = SiteStatus(**(known | fields))  # type: ignore[arg-type]
    found = daemons._look_at_site(_config().sites[0], status)  # noqa: SLF001
    return {finding.subject: finding for finding in found if finding.level is not Level.OK}


@pytest.mark.parametrize(("skew_ms", "words"), [(90_000, "1 min 30 s ahead of"), (-7_200_000, "2 h behind")])
def test_clocks_that_differ_are_an_error_that_says_by_how_much(skew_ms: int, words: str) -> None:
    assert words in _contact(clock_skew_ms=skew_ms)["site site-a: clock"].says


def test_clocks_that_agree_an_old_version_and_a_site_that_offers_nothing() -> None:
    assert not _contact(clock_skew_ms=-40)
    assert "version 9.9" in _contact(version="9.9")["site site-a: version"].says
    assert "offers nothing" in _contact(total_cpus=0)["site site-a: capacity"].says
