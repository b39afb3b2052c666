"""Where a submission goes, and why."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.cluster import Job, Snapshot, Trail
from overspill_sidecar.decision.budget import AccountUse, claims
from overspill_sidecar.decision.capacity import Amount, SiteCapacity, SiteView, SlotGroup
from overspill_sidecar.decision.decide import Decision, Verdict, decide
from overspill_sidecar.decision.shape import Pins
from overspill_sidecar.decision.situation import Situation
from overspill_sidecar.policy import Mode, parse_policy
from overspill_sidecar.records.record import Record, message_of
from overspill_sidecar.wait import QueuedJob, WaitEstimate
from tests.unit.sidecar_cluster import (
    CONFIG,
    IDLE_SITE,
    NOW_S,
    OVERSPILL,
    TOTAL,
    full_batch,
    job,
    node,
    partition,
    queue,
    running,
    snapshot,
)

_WORDS = (
    "overspill_mode={mode},overspill_wait=00:01:00,overspill_from=batch+long,overspill_to=overspill,overspill_explore=0"
)


def _ask(**fields: Any) -> DecideRequest:
    """Return the request of a plain `sbatch -t 10 --mem-per-cpu=100` of one task."""
    plain: dict[str, Any] = {
        "user_id": 2001,
        "has_script": True,
        "time_limit_min": 10,
        "num_tasks": 1,
        "min_cpus": 1,
        "min_nodes": 1,
        "memory_per_cpu_mib": 100,
    }
    return DecideRequest(**{**plain, **fields})


def _situation(
    mode: str = "on",
    wait_s: float = 3600,
    of: Snapshot | None = None,
    site: SiteView = IDLE_SITE,
    promised: Amount = Amount(),  # noqa: B008 - frozen
    **changes: Any,
) -> Situation:
    return replace(
        Situation(
            policy=parse_policy([_WORDS.format(mode=mode)])[0],
            queue=queue(of or snapshot(*full_batch())),
            sites=[site],
            promised={"site-a": promised},
            predict=lambda _: WaitEstimate(wait_s, is_upper_bound=True),
            unix_time_s=NOW_S,
        ),
        **changes,
    )


def _decide(situation: Situation | None = None, **fields: Any) -> Decision:
    return decide(_ask(**fields), situation or _situation(), "d-1")


def test_a_job_that_would_wait_too_long_may_start_at_the_site_as_well() -> None:
    decision = _decide()
    assert (decision.verdict, decision.reason) == (Verdict.DIVERT, "wait_above_threshold")
    assert (decision.site, decision.partition) == ("site-a", "batch,overspill")
    assert json.loads(decision.admin_comment) == {
        "decision": "d-1",
        "site": "site-a",
        "partition": "batch",
        "wait_s": 3600,
        "wait_is_upper_bound": True,
        "time_limit_s": "600",
    }


def test_a_job_that_would_wait_less_stays() -> None:
    decision = _decide(_situation(wait_s=59))
    assert (decision.verdict, decision.reason) == (Verdict.LOCAL, "wait_below_threshold")
    assert decision.partition == ""


@pytest.mark.parametrize("wait_s", [59.0, 3600.0, math.inf])
def test_a_record_tells_who_predicted_and_how_probable_too_long_a_wait_was(wait_s: float) -> None:
    situation = _situation(wait_s=wait_s)
    decision = _decide(situation)
    kept = message_of(Record("d-1", 0.0, NOW_S, _ask(), decision, situation.policy, situation.sites))
    assert (kept.wait_model, kept.wait_limit_s) == ("plan", 60)
    assert kept.exceeds_probability == WaitEstimate(wait_s, is_upper_bound=True).p_exceeds(60)
    assert kept.HasField("wait_s") is math.isfinite(wait_s)


def test_of_several_partitions_the_one_is_recorded_in_which_too_long_a_wait_is_least_probable() -> None:
    def predict(queued: QueuedJob) -> WaitEstimate:
        return WaitEstimate(3600 if queued.partition == "batch" else 6 * 3600, is_upper_bound=False)

    words = _WORDS.format(mode="on") + ",overspill_from=batch+long,overspill_wait@long=04:00:00"
    situation = _situation(policy=parse_policy([words])[0], predict=predict)
    request = _ask(partition="batch,long")
    decision = decide(request, situation, "d-1")
    assert decision.verdict is Verdict.DIVERT
    kept = message_of(Record("d-1", 0.0, NOW_S, request, decision, situation.policy, situation.sites))
    assert (kept.wait_s, kept.wait_limit_s) == (6 * 3600, 4 * 3600)
    assert kept.exceeds_probability > 0.5


def test_a_job_whose_wait_nobody_knows_stays() -> None:
    assert _decide(_situation(predict=lambda _: None)).reason == "wait_unknown"


def test_an_endless_wait_is_written_as_json_that_everybody_reads() -> None:
    assert json.loads(_decide(_situation(wait_s=math.inf)).admin_comment)["wait_s"] is None


def test_of_several_partitions_each_must_be_too_slow() -> None:
    def predict(queued: QueuedJob) -> WaitEstimate:
        return WaitEstimate(3600 if queued.partition == "batch" else 10, is_upper_bound=True)

    assert _decide(_situation(predict=predict), partition="batch,long").reason == "wait_below_threshold"
    assert _decide(partition="batch,long").partition == "batch,long,overspill"


def test_after_a_partition_whose_wait_nobody_knows_no_other_is_asked_about() -> None:
    asked: list[str] = []

    def predict(queued: QueuedJob) -> None:
        asked.append(queued.partition)

    decision = _decide(_situation(predict=predict), partition="batch,long")
    assert (decision.reason, decision.estimate, asked) == ("wait_unknown", None, ["batch"])


@pytest.mark.parametrize("mode", [*Mode])
def test_each_mode_goes_as_far_as_it_says(mode: Mode) -> None:
    decision = _decide(_situation(mode))
    assert (decision.verdict, decision.reason, decision.partition) == {
        Mode.OFF: (Verdict.LOCAL, "mode_off", ""),
        Mode.SHADOW: (Verdict.LOCAL, "shadow_wait_above_threshold", ""),
        Mode.ON: (Verdict.DIVERT, "wait_above_threshold", "batch,overspill"),
        Mode.ALWAYS: (Verdict.DIVERT, "mode_always", "overspill"),
    }[mode]


def test_shadow_records_what_it_would_have_done() -> None:
    assert _decide(_situation("shadow")).would_be is Verdict.DIVERT
    assert _decide(_situation("shadow", wait_s=1)).would_be is None


def test_a_partition_named_often_is_looked_at_once() -> None:
    asked = []

    def predict(queued: QueuedJob) -> WaitEstimate:
        asked.append(queued.partition)
        return WaitEstimate(3600, is_upper_bound=True)

    assert _decide(_situation(predict=predict), partition="batch," * 500 + "long").partition == "batch,long,overspill"
    assert len(asked) <= 2 * 2


def test_always_replaces_the_partition_without_a_look_at_the_queue() -> None:
    decision = _decide(_situation(wait_s=0), overspill_option="always")
    assert (decision.verdict, decision.reason, decision.partition) == (Verdict.DIVERT, "option_always", "overspill")


def _two_sites() -> dict[str, Any]:
    """Return what a situation has of an idle site-b beside site-a."""
    other = replace(IDLE_SITE, name="site-b", partition="ovs-b")
    ovs_b = partition("ovs-b", ("ovs2",), max_time_s=None)
    of = snapshot(*full_batch(), partitions=(partition(), OVERSPILL, ovs_b))
    of = replace(of, nodes={**of.nodes, "ovs2": node("ovs2", 8, 16384)})
    return {"of": of, "sites": [IDLE_SITE, other]}


def test_a_site_that_the_user_names_is_the_only_one_to_be_asked() -> None:
    two = _with("overspill_to@batch=overspill+ovs-b", **_two_sites())
    decision = _decide(two, overspill_option="site-b")
    assert (decision.verdict, decision.reason, decision.partition) == (Verdict.DIVERT, "option_site", "ovs-b")
    full = _with("overspill_to@batch=overspill+ovs-b", wait_s=0, **_two_sites())
    assert _decide(full, overspill_option="site-a").partition == "overspill"
    assert _decide(two, overspill_option="site-b", excluded_nodes="ovs2").reason == "node_list"
    assert _decide(_with("overspill_to@batch=overspill", **_two_sites()), overspill_option="site-b").reason == "no_site"


def test_a_site_that_there_is_not_keeps_the_job_and_the_user_is_told() -> None:
    decision = _decide(overspill_option="alway")
    assert (decision.verdict, decision.reason) == (Verdict.LOCAL, "option_unknown")
    assert decision.user_message == (
        "overspill: --overspill=alway: no such site (site-a), nor auto, never or always: this job stays here"
    )


def test_always_does_not_outrank_the_admin() -> None:
    assert _decide(_situation("off"), overspill_option="always").reason == "mode_off"
    assert _decide(_situation(), overspill_option="always", partition="unlisted").reason == "partition_unknown"


_NEVER: list[tuple[str, dict[str, Any]]] = [
    ("interactive", {"has_script": False}),
    ("option_never", {"overspill_option": "never"}),
    ("option_unknown", {"overspill_option": "sometimes"}),
    ("heterogeneous", {"is_het": True}),
    ("scrontab", {"is_cron": True}),
    ("held", {"is_held": True}),
    ("begin_time", {"begin_time_s": NOW_S + 60}),
    ("dependency", {"dependency": "afterok:1"}),
    ("reservation", {"reservation": "r"}),
    ("node_list", {"required_nodes": "c1"}),
    ("node_list", {"excluded_nodes": "ovs[1-4]"}),
    ("node_list", {"excluded_nodes": "c[1"}),
    ("burst_buffer", {"burst_buffer": "#BB x"}),
    ("licence", {"licenses": "matlab:1"}),
    ("feature", {"features": "avx512"}),
    ("gres", {"tres": ["gres/gpu:1"]}),
    ("container", {"container": "/image"}),
    ("exclusive", {"is_exclusive": True}),
    ("all_memory", {"asks_all_memory": True}),
    ("odd_option", {"odd_options": ["--switches"]}),
    ("several_nodes", {"min_nodes": 2}),
    ("several_nodes", {"num_tasks": 8, "tasks_per_node": 4}),
]


@pytest.mark.parametrize(("reason", "fields"), _NEVER)
@pytest.mark.parametrize("mode", ["on", "always"])
def test_a_job_that_the_site_could_not_run_alike_always_stays(reason: str, fields: dict[str, Any], mode: str) -> None:
    decision = _decide(_situation(mode), **fields)
    assert (decision.verdict, decision.reason) == (Verdict.LOCAL, reason)


_requests = st.fixed_dictionaries(
    {},
    optional={
        "partition": st.sampled_from(["", "batch", "long", "batch,long", "overspill", "nowhere", ","]),
        "account": st.sampled_from(["", "physics"]),
        "time_limit_min": st.sampled_from([0, 1, 10_000, 0xFFFFFFFF, 0xFFFFFFFE]),
        "num_tasks": st.integers(0, 20),
        "cpus_per_task": st.integers(0, 4),
        "memory_per_node_mib": st.integers(0, 40_000),
        "memory_per_cpu_mib": st.integers(0, 4_000),
        "array": st.sampled_from(["", "1-3", "1-1000%4", "nonsense"]),
        "overspill_option": st.sampled_from(["", "auto", "always"]),
        "tasks_per_node": st.integers(0, 3),
    },
)
_situations = st.builds(
    _situation,
    mode=st.sampled_from([*Mode]),
    wait_s=st.sampled_from([0.0, 30.0, 61.0, math.inf]),
    site=st.sampled_from([IDLE_SITE, replace(IDLE_SITE, is_reachable=False), replace(IDLE_SITE, capacity=None)]),
    promised=st.sampled_from([Amount(), Amount(7, 100), Amount(8, 16384)]),
)


@given(_situations, _requests, st.sampled_from(_NEVER))
def test_no_job_with_a_never_divert_attribute_is_ever_diverted(
    situation: Situation, fields: dict[str, Any], never: tuple[str, dict[str, Any]]
) -> None:
    assert _decide(situation, **{**fields, **never[1]}).verdict is not Verdict.DIVERT


@given(_situations, _requests)
def test_every_answer_is_complete_and_only_diversions_change_the_job(
    situation: Situation, fields: dict[str, Any]
) -> None:
    decision = _decide(situation, **fields)
    assert decision.reason
    assert decision.reason == decision.reason.lower().replace(" ", "_")
    if decision.verdict is Verdict.DIVERT:
        assert decision.partition.split(",")[-1] == "overspill"
        assert json.loads(decision.admin_comment)["decision"] == "d-1"
    else:
        assert (decision.partition, decision.pins, decision.admin_comment) == ("", Pins(), "")


@given(_situations, _requests)
def test_nothing_is_diverted_beyond_what_is_free_or_where_nothing_is_known(
    situation: Situation, fields: dict[str, Any]
) -> None:
    decision = _decide(situation, **fields)
    if decision.verdict is not Verdict.DIVERT:
        return
    site = situation.sites[0]
    assert site.is_reachable
    assert site.capacity is not None
    assert decision.shape is not None
    if decision.reason == "wait_above_threshold":
        left = site.capacity.free - situation.promised["site-a"]
        assert decision.shape.cpus * decision.shape.slots <= left.cpus


@pytest.mark.parametrize("command", ["srun", "salloc"])
@pytest.mark.parametrize("mode", [*Mode])
def test_interactive_jobs_in_an_overspill_partition_are_refused_with_a_way_out(command: str, mode: Mode) -> None:
    decision = _decide(_situation(mode), has_script=False, partition="batch,overspill")
    assert decision.verdict is Verdict.REFUSE
    assert "overspill: partition overspill runs batch jobs only" in decision.user_message
    assert command in decision.user_message
    assert "sbatch" in decision.user_message


def test_interactive_jobs_are_refused_there_even_while_slurm_is_silent() -> None:
    assert _decide(_situation(queue=None), has_script=False, partition="overspill").verdict is Verdict.REFUSE


def test_a_batch_job_whose_user_chose_the_overspill_partition_is_left_alone() -> None:
    decision = _decide(partition="overspill")
    assert (decision.verdict, decision.reason) == (Verdict.LOCAL, "overspill_partition_named")


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("queue_unknown", {"queue": None}),
        ("site_unreachable", {"site": replace(IDLE_SITE, is_reachable=False)}),
        ("capacity_unknown", {"site": replace(IDLE_SITE, capacity=None)}),
        ("no_such_site", {"sites": []}),
    ],
)
@pytest.mark.parametrize("mode", ["on", "always"])
def test_in_doubt_about_queue_or_site_the_job_stays(reason: str, changes: dict[str, Any], mode: str) -> None:
    assert _decide(_situation(mode, **changes)).reason == reason


@pytest.mark.parametrize(
    ("reason", "target"),
    [
        ("target_down", {"is_up": False}),
        ("target_restricted", {"is_restricted": True}),
        ("target_account", {"allow_accounts": ("physics",)}),
        ("target_account", {"deny_accounts": ("physics",)}),
        ("target_qos", {"allow_qos": ("high",)}),
        ("target_time_limit", {"max_time_s": 60}),
        ("target_memory_limit", {"max_memory_per_node_mib": 50}),
        ("target_cpu_limit", {"max_cpus_per_node": 1}),
        ("target_memory_limit", {"max_memory_per_cpu_mib": 99}),
        ("target_nodes_limit", {"min_nodes": 2}),
        ("target_nodes_limit", {"max_nodes": 0}),
        ("target_groups", {"is_for_some_users": True}),
        ("target_restricted", {"is_exclusive": True}),
    ],
)
@pytest.mark.parametrize("mode", ["on", "always"])
def test_a_job_that_slurm_would_reject_over_there_stays(reason: str, target: dict[str, Any], mode: str) -> None:
    of = snapshot(*full_batch(), partitions=(partition(), replace(OVERSPILL, **target)))
    assert _decide(_situation(mode, of=of), num_tasks=2).reason == reason


def test_a_job_with_an_account_that_the_target_admits_goes() -> None:
    target = replace(OVERSPILL, allow_accounts=("physics",), deny_qos=("low",))
    of = snapshot(*full_batch(), partitions=(partition(), target))
    assert _decide(_situation(of=of), account="physics", qos="high").verdict is Verdict.DIVERT


@pytest.mark.parametrize("mode", ["on", "always"])
def test_while_the_virtual_node_is_drained_nothing_goes_there(mode: str) -> None:
    of = snapshot(*full_batch(), nodes={"c1": node("c1", 8), "ovs1": node("ovs1", 8, 16384, is_usable=False)})
    assert _decide(_situation(mode, of=of)).reason == "target_nodes_down"


@pytest.mark.parametrize("mode", ["on", "always"])
def test_a_job_larger_than_anything_over_there_stays(mode: str) -> None:
    small = SiteCapacity(Amount(2, 1000), Amount(2, 1000), Amount(2, 1000))
    assert _decide(_situation(mode), memory_per_cpu_mib=20_000).reason == "larger_than_node"
    assert _decide(_situation(mode, site=replace(IDLE_SITE, capacity=small)), num_tasks=4).reason == "larger_than_site"


def test_a_site_without_memory_management_takes_any_memory() -> None:
    capacity = SiteCapacity(Amount(8), Amount(8), Amount(8))
    assert _decide(_situation(site=replace(IDLE_SITE, capacity=capacity))).verdict is Verdict.DIVERT


def test_a_job_that_its_own_partition_could_never_run_is_left_to_slurm() -> None:
    assert _decide(num_tasks=9, memory_per_cpu_mib=1).reason == "larger_than_own_partition"


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("promised", {"promised": Amount(8, 100)}),
        ("used at the site", {"site": replace(IDLE_SITE, capacity=SiteCapacity(TOTAL, Amount(), Amount()))}),
        ("split up", {"site": replace(IDLE_SITE, capacity=SiteCapacity(TOTAL, TOTAL, Amount(0, 50)))}),
        ("allocated by Slurm", {"of": snapshot(*full_batch(), running(7, "ovs1", 8, partitions=("overspill",)))}),
        ("waited for", {"of": snapshot(*full_batch(), job(7, cpus=8, partitions=("batch", "overspill")))}),
        (
            "started by Slurm on nodes larger than the site, which has not heard of it yet",
            {
                "of": snapshot(
                    *full_batch(),
                    nodes={
                        **{name: node(name, cpus_allocated=2) for name in ("c1", "c2", "c3", "c4")},
                        "ovs1": node("ovs1", 64, 256_000, partitions=("overspill",), cpus_allocated=8),
                    },
                )
            },
        ),
    ],
)
def test_a_job_goes_only_where_a_slot_is_free_now(what: str, changes: dict[str, Any]) -> None:
    assert _decide(_situation(**changes)).reason == "no_free_slot"
    assert _decide(_situation("always", **changes)).verdict is Verdict.DIVERT


def _with_slots(*groups: SlotGroup, **changes: Any) -> SiteView:
    return replace(IDLE_SITE, capacity=replace(SiteCapacity(TOTAL, TOTAL, TOTAL, slots=groups), **changes))


_HALVES = SlotGroup(2, Amount(4, 8192), Amount(4, 8192))


def test_a_job_must_fit_one_free_slot() -> None:
    assert _decide(_situation(site=_with_slots(_HALVES)), num_tasks=4).verdict is Verdict.DIVERT
    assert _decide(_situation(site=_with_slots(_HALVES)), num_tasks=5).reason == "larger_than_slot"
    busy = replace(_HALVES, free=Amount(3, 8192))
    assert _decide(_situation(site=_with_slots(busy)), num_tasks=4).reason == "no_free_slot"


def test_what_is_promised_takes_the_largest_slots_first() -> None:
    site = _with_slots(SlotGroup(1, Amount(6, 8192), Amount(6, 8192)), SlotGroup(1, Amount(2, 8192), Amount(2, 8192)))
    assert _decide(_situation(site=site, promised=Amount(3, 100)), num_tasks=3).verdict is Verdict.DIVERT
    assert _decide(_situation(site=site, promised=Amount(4, 100)), num_tasks=3).reason == "no_free_slot"
    assert _decide(_situation(site=site, promised=Amount(6, 100)), num_tasks=2).verdict is Verdict.DIVERT


def test_the_tasks_of_an_array_are_counted_across_slots() -> None:
    site = _with_slots(_HALVES)
    assert _decide(_situation(site=site), array="1-2", num_tasks=3, memory_per_cpu_mib=1).verdict is Verdict.DIVERT
    assert _decide(_situation(site=site), array="1-8").verdict is Verdict.DIVERT
    site = _with_slots(SlotGroup(2, Amount(4, 8192), Amount(3, 8192)))
    assert _decide(_situation(site=site), array="1-3", num_tasks=2).reason == "no_free_slot"


def test_what_slurm_has_started_since_the_agent_was_heard_is_no_free_slot() -> None:
    of = snapshot(*full_batch(), running(7, "ovs1", 4, partitions=("overspill",)))
    site = _with_slots(_HALVES)
    assert _decide(_situation(of=of, site=site), num_tasks=4).verdict is Verdict.DIVERT
    heard = _with_slots(_HALVES, free=Amount(4, 8192), slots=(replace(_HALVES, count=1),))
    assert _decide(_situation(of=of, site=heard), num_tasks=4).verdict is Verdict.DIVERT
    of = snapshot(*full_batch(), running(7, "ovs1", 2, partitions=("overspill",)))
    assert _decide(_situation(of=of, site=site), num_tasks=3).verdict is Verdict.DIVERT
    assert _decide(_situation(of=of, site=site), num_tasks=3, array="1-2").reason == "no_free_slot"


@pytest.mark.parametrize("mode", ["on", "always"])
def test_an_image_is_found_where_it_is_offered_and_written_down(mode: str) -> None:
    site = _with_slots(_HALVES, images=frozenset({"base", "bench"}))
    decision = _decide(_situation(mode, site=site), image="bench")
    assert (decision.verdict, json.loads(decision.admin_comment)["image"]) == (Verdict.DIVERT, "bench")
    refused = _decide(_situation(mode, site=site), image="nothing")
    assert (refused.verdict, refused.reason) == (Verdict.LOCAL, "site_image")
    assert refused.user_message == (
        "overspill: --overspill-image=nothing: no site offers it (there is base, bench): this job stays here"
    )
    assert "image" not in json.loads(_decide(_situation(mode, site=site)).admin_comment)


def test_a_feature_that_the_site_does_not_know_keeps_the_job_and_an_older_site_is_not_asked() -> None:
    policy = parse_policy([_WORDS.format(mode="on"), "overspill_allow_features=avx2+overspill"])[0]
    plain = snapshot(*full_batch())
    of = replace(
        plain, nodes={**plain.nodes, "ovs1": replace(plain.nodes["ovs1"], features=frozenset({"overspill", "avx2"}))}
    )
    for known, reason in (
        (frozenset[str](), "site_feature"),
        (frozenset({"avx2"}), "wait_above_threshold"),
        (None, "wait_above_threshold"),
    ):
        situation = _situation(of=of, site=_with_slots(_HALVES, features=known), policy=policy)
        assert _decide(situation, features="overspill&avx2").reason == reason


def test_held_and_dependent_jobs_over_there_claim_nothing() -> None:
    of = snapshot(*full_batch(), job(7, cpus=8, partitions=("overspill",), reason="Dependency"))
    assert _decide(_situation(of=of)).verdict is Verdict.DIVERT


def test_an_array_goes_only_if_all_that_runs_at_once_fits() -> None:
    assert _decide(array="1-100%8").verdict is Verdict.DIVERT
    assert _decide(array="1-9").reason == "no_free_slot"
    assert _decide(array="what").reason == "array_unreadable"


def test_a_partition_that_the_policy_does_not_name_keeps_its_jobs() -> None:
    of = snapshot(*full_batch(), partitions=(partition("debug"), partition(), OVERSPILL))
    assert _decide(_situation(of=of), partition="debug").reason == "partition_not_in_from"
    assert _decide(_situation(of=of), partition="batch,debug").reason == "partition_not_in_from"
    assert _decide(_situation(of=snapshot(partitions=(OVERSPILL,)))).reason == "partition_unknown"


def test_defaults_of_the_own_partition_are_pinned() -> None:
    own = partition(default_time_s=1800, memory_per_cpu_mib=500)
    of = snapshot(*full_batch(), partitions=(own, OVERSPILL))
    decision = _decide(_situation(of=of), time_limit_min=0, memory_per_cpu_mib=0, num_tasks=2)
    assert decision.pins == Pins(time_limit_min=30, memory_per_cpu_mib=500)


@pytest.mark.parametrize(
    ("own", "config", "pins"),
    [
        (partition(), CONFIG, Pins(1440, 100, 0)),
        (partition(default_time_s=90), CONFIG, Pins(2, 100, 0)),
        (partition(memory_per_node_mib=900), CONFIG, Pins(1440, 0, 900)),
        (partition(), replace(CONFIG, memory_per_cpu_mib=None, memory_per_node_mib=700), Pins(1440, 0, 700)),
        (partition(), replace(CONFIG, manages_memory=False), Pins(1440, 0, 0)),
    ],
)
def test_what_is_pinned_is_what_slurm_would_have_given(own: Any, config: Any, pins: Pins) -> None:
    of = snapshot(*full_batch(), partitions=(own, OVERSPILL), config=config)
    assert _decide(_situation(of=of), time_limit_min=0, memory_per_cpu_mib=0).pins == pins


def test_what_the_user_gave_is_not_pinned() -> None:
    assert _decide().pins == Pins()
    assert _decide(memory_per_cpu_mib=0, memory_per_node_mib=300).pins == Pins()


def test_defaults_that_cannot_be_told_or_kept_keep_the_job() -> None:
    whole_nodes = snapshot(*full_batch(), config=replace(CONFIG, memory_per_cpu_mib=None))
    assert _decide(_situation(of=whole_nodes), memory_per_cpu_mib=0).reason == "default_is_all_memory"
    assert _decide(partition="batch,long", time_limit_min=0).reason == "defaults_differ"
    unlimited = snapshot(partitions=(partition(max_time_s=None), replace(OVERSPILL, default_time_s=60)))
    assert _decide(_situation(of=unlimited), time_limit_min=0).reason == "target_time_default"


def test_exclusive_partitions_keep_their_jobs() -> None:
    of = snapshot(*full_batch(), partitions=(partition(is_exclusive=True), OVERSPILL))
    assert _decide(_situation(of=of)).reason == "exclusive"


def test_a_cluster_in_a_federation_keeps_its_jobs() -> None:
    federated = replace(queue(snapshot(*full_batch())), is_federated=True)
    assert _decide(_situation("always", queue=federated)).reason == "federated"


def test_a_begin_time_that_has_passed_holds_nothing_back() -> None:
    assert _decide(begin_time_s=NOW_S - 1).verdict is Verdict.DIVERT


def test_sites_are_taken_in_the_policys_order() -> None:
    other = replace(IDLE_SITE, name="site-b", partition="ovs-b")
    of = snapshot(*full_batch(), partitions=(partition(), OVERSPILL, partition("ovs-b", ("ovs1",), max_time_s=None)))
    words = "overspill_wait=1,overspill_from=batch,overspill_to=ovs-b+overspill,overspill_explore=0"
    situation = replace(_situation(of=of), policy=parse_policy([words])[0], sites=[IDLE_SITE, other])
    assert _decide(situation).site == "site-b"
    situation = replace(situation, sites=[IDLE_SITE, replace(other, is_reachable=False)])
    assert _decide(situation).site == "site-a"


def _with(words: str, **changes: Any) -> Situation:
    """Return the usual situation with more policy words."""
    return replace(_situation(**changes), policy=parse_policy([f"{_WORDS.format(mode='on')},{words}"])[0])


@pytest.mark.parametrize(
    ("words", "fields", "reason"),
    [
        ("overspill_deny_users=alice", {}, "policy_user"),
        ("overspill_deny_users@batch=alice", {}, "policy_user"),
        ("overspill_deny_users@long=alice", {}, ""),
        ("overspill_deny_users=bob", {}, ""),
        ("overspill_deny_users=nobody-knows-her", {}, "policy_user"),
        ("overspill_deny_users@long=nobody-knows-her", {}, ""),
        ("overspill_allow_users=nobody-knows-her", {}, "policy_user"),
        ("overspill_allow_users=bob", {}, "policy_user"),
        ("overspill_allow_users=bob+alice", {}, ""),
        ("overspill_allow_accounts=physics", {}, "policy_account"),
        ("overspill_allow_accounts=physics", {"account": "physics"}, ""),
        ("overspill_deny_accounts=physics", {"account": "physics"}, "policy_account"),
        ("overspill_max_time=00:09:59", {}, "policy_time"),
        ("overspill_max_time=10", {}, ""),
        ("overspill_max_time=10", {"time_limit_min": 0xFFFFFFFF}, "policy_time"),
        ("overspill_max_jobs=0", {}, "max_jobs"),
        ("overspill_max_jobs=1", {}, ""),
        ("overspill_max_jobs=3", {"array": "1-4"}, "max_jobs"),
        ("overspill_max_jobs=3", {"array": "1-4%3"}, ""),
        ("overspill_max_jobs@overspill=0", {}, "max_jobs"),
        ("overspill_max_nodes=2", {"min_nodes": 3}, "several_nodes"),
        ("overspill_notify=off", {"min_nodes": 2}, "several_nodes"),
        ("overspill_notify=off", {"num_tasks": 4, "tasks_per_node": 2}, "several_nodes"),
        ("overspill_notify=off", {"features": "avx"}, "feature"),
        ("overspill_allow_features=avx", {"features": "avx|ib"}, "feature"),
        ("overspill_allow_features=avx", {"features": "[avx&ib]"}, "feature"),
        ("overspill_allow_features=avx", {"features": "avx*2"}, "feature"),
        ("overspill_allow_features=avx", {"features": "avx&ib"}, "feature"),
        ("overspill_allow_features=avx", {"features": "avx"}, "target_feature"),
    ],
)
def test_the_admins_words_keep_jobs(words: str, fields: dict[str, Any], reason: str) -> None:
    decision = _decide(_with(words, user_ids={"alice": 2001, "bob": 2002}), **fields)
    assert (decision.verdict, decision.reason if reason else "") == (
        (Verdict.LOCAL, reason) if reason else (Verdict.DIVERT, "")
    )


def test_a_feature_that_policy_maps_and_every_virtual_node_has_may_be_asked_for() -> None:
    of = snapshot(*full_batch())
    nodes = {**of.nodes, "ovs1": replace(of.nodes["ovs1"], features=frozenset({"overspill", "avx", "ib"}))}
    situation = _with("overspill_allow_features=avx+ib", of=replace(of, nodes=nodes))
    assert _decide(situation, features="avx&ib").verdict is Verdict.DIVERT
    assert _decide(situation, features="avx,ib").verdict is Verdict.DIVERT


def test_diverted_jobs_are_counted_wherever_they_are_and_with_what_is_promised() -> None:
    there = running(7, "ovs1", 1, partitions=("overspill",))
    of = snapshot(*full_batch(), there, job(8, partitions=("batch", "overspill"), tasks=2))
    assert _decide(_with("overspill_max_jobs=4", of=of)).verdict is Verdict.DIVERT
    assert _decide(_with("overspill_max_jobs=3", of=of)).reason == "max_jobs"
    promised = {"promised_jobs": {"site-a": 1}}
    assert _decide(_with("overspill_max_jobs=4", of=of, **promised)).reason == "max_jobs"
    assert _decide(_with("overspill_max_jobs@overspill=4", of=of, **promised)).reason == "max_jobs"


def test_the_user_hears_of_it_only_where_the_admin_wants_it() -> None:
    assert _decide().user_message == ""
    message = _decide(_with("overspill_notify@batch=on")).user_message
    assert message == (
        "overspill: this job may run at site-a (partition overspill) if that is sooner; --overspill=never keeps it here"
    )
    assert _decide(_with("overspill_notify@batch=on", wait_s=1)).user_message == ""


def test_a_partition_for_some_users_takes_those_whom_slurmctld_lets_in() -> None:
    of = snapshot(*full_batch(), partitions=(partition(), replace(OVERSPILL, is_for_some_users=True)))
    assert _decide(_situation(of=of), open_partitions=["batch"]).reason == "target_groups"
    assert _decide(_situation(of=of), open_partitions=["batch", "overspill"]).verdict is Verdict.DIVERT


def test_jobs_of_several_nodes_go_where_policy_and_partition_let_them_and_nodes_are_free() -> None:
    target = replace(OVERSPILL, nodes=("ovs1", "ovs2"), max_nodes=2)
    of = snapshot(*full_batch(), partitions=(partition(), target))
    of = replace(of, nodes={**of.nodes, "ovs2": node("ovs2", 4, 16384)})
    situation = _with("overspill_max_nodes=2", of=of)
    assert _decide(situation, min_nodes=2, num_tasks=8).verdict is Verdict.DIVERT
    assert _decide(situation, min_nodes=2, num_tasks=10, memory_per_cpu_mib=1).reason == "larger_than_own_partition"
    assert _decide(_with("overspill_max_nodes=2"), min_nodes=2, num_tasks=2).reason == "target_nodes_limit"
    small = replace(of, nodes={**of.nodes, "ovs2": node("ovs2", 2, 16384)})
    assert _decide(_with("overspill_max_nodes=2", of=small), min_nodes=2, num_tasks=8).reason == "larger_than_node"


def test_each_partition_of_the_user_may_prefer_another_site() -> None:
    other = replace(IDLE_SITE, name="site-b", partition="ovs-b")
    ovs_b = partition("ovs-b", ("ovs1",), max_time_s=None)
    of = snapshot(*full_batch(), partitions=(partition(), partition("long", ("c1", "c2")), OVERSPILL, ovs_b))
    situation = _with("overspill_to@long=ovs-b+overspill", of=of, sites=[IDLE_SITE, other])
    assert _decide(situation).site == "site-a"
    assert _decide(situation, partition="long").site == "site-b"
    assert _decide(situation, partition="batch,long").site == "site-a"
    only_b = _with("overspill_to@long=ovs-b", of=of, sites=[IDLE_SITE, other])
    assert _decide(only_b, partition="batch,long").reason == "no_site"


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("target_nodes_down", {"is_usable": False}),
        ("no_free_slot", {"cpus_allocated": 8}),
    ],
)
def test_where_the_first_site_cannot_take_a_job_the_next_does(reason: str, change: dict[str, Any]) -> None:
    two = _two_sites()
    assert _decide(_with("overspill_to@batch=overspill+ovs-b", **two)).site == "site-a"
    nodes = two["of"].nodes
    two["of"] = replace(two["of"], nodes={**nodes, "ovs1": replace(nodes["ovs1"], **change)})
    assert _decide(_with("overspill_to@batch=overspill+ovs-b", **two)).site == "site-b"
    assert _decide(_with("overspill_to@batch=overspill", **two)).reason == reason


def test_a_share_of_would_be_diversions_stays_at_random_and_always_the_same_ones() -> None:
    situation = _with("overspill_explore@batch=0.1")
    ids = [f"{number:016x}" for number in range(2000)]
    kept = [name for name in ids if decide(_ask(), situation, name).reason == "explore"]
    assert 150 < len(kept) < 250
    assert kept == [name for name in ids if decide(_ask(), situation, name).verdict is Verdict.LOCAL]
    decision = decide(_ask(), situation, kept[0])
    assert (decision.would_be, decision.site, decision.partition) == (Verdict.DIVERT, "site-a", "")


@pytest.mark.parametrize("mode", ["on", "always", "shadow"])
def test_nothing_is_kept_to_explore_that_is_sent_by_a_word_or_stays_anyhow(mode: str) -> None:
    words = f"{_WORDS.format(mode=mode)},overspill_explore@batch=1"
    situation = replace(_situation(), policy=parse_policy([words])[0])
    assert _decide(situation, overspill_option="always").reason.endswith("option_always")
    assert _decide(situation, overspill_option="site-a").reason.endswith("option_site")
    reasons = {"on": "explore", "always": "mode_always", "shadow": "shadow_wait_above_threshold"}
    assert _decide(situation).reason == reasons[mode]
    assert _decide(replace(situation, predict=lambda _: None)).reason != "explore"


def _ranked(sites: dict[str, dict[str, Any]], words: str = "overspill_choose=best") -> Decision:
    """Decide between idle sites that differ as given."""
    two = _two_sites()
    two["sites"] = [replace(site, **sites.get(site.name[-1], {})) for site in two["sites"]]
    return _decide(_with(f"overspill_to@batch=overspill+ovs-b,{words}", **two))


@pytest.mark.parametrize(
    ("chosen", "why_not_the_other", "sites"),
    [
        ("site-a", "later_in_order", {}),
        ("site-b", "starts_later", {"a": {"delay_s": 90.0}, "b": {"delay_s": 29.0}}),
        ("site-a", "later_in_order", {"a": {"delay_s": 90.0}, "b": {"delay_s": 31.0}}),
        ("site-a", "later_in_order", {"a": {"delay_s": 900.0}}),
        ("site-b", "dearer", {"a": {"price": 0.2}, "b": {"price": 0.1}}),
        ("site-b", "dearer", {"a": {"price": 0.2, "delay_s": 1.0}, "b": {"delay_s": 50.0}}),
        ("site-a", "starts_later", {"a": {"price": 0.2, "delay_s": 1.0}, "b": {"delay_s": 70.0}}),
    ],
)
def test_of_sites_that_can_start_a_job_the_soonest_the_cheapest_the_first_is_chosen(
    chosen: str, why_not_the_other: str, sites: dict[str, dict[str, Any]]
) -> None:
    decision = _ranked(sites)
    (other,) = {"site-a", "site-b"} - {chosen}
    assert (decision.site, decision.refusals) == (chosen, {other: why_not_the_other})


def test_the_admin_may_insist_on_the_order() -> None:
    sites = {"a": {"delay_s": 900.0, "price": 9.0}, "b": {"delay_s": 1.0}}
    assert _ranked(sites, "overspill_choose=order").site == "site-a"


def test_a_job_that_is_sent_goes_where_it_can_start_and_else_where_it_has_to_wait() -> None:
    two = _two_sites()
    nodes = two["of"].nodes
    full = {"ovs1": replace(nodes["ovs1"], cpus_allocated=8)}
    situation = _with(
        "overspill_to@batch=overspill+ovs-b", **{**two, "of": replace(two["of"], nodes={**nodes, **full})}
    )
    decision = _decide(situation, overspill_option="always")
    assert (decision.site, decision.refusals) == ("site-b", {"site-a": "no_free_slot"})
    full["ovs2"] = replace(nodes["ovs2"], cpus_allocated=8)
    situation = _with(
        "overspill_to@batch=overspill+ovs-b", **{**two, "of": replace(two["of"], nodes={**nodes, **full})}
    )
    assert _decide(situation, overspill_option="always").site == "site-a"


@pytest.mark.parametrize("option", ["", "always", "site-a"])
def test_a_site_that_could_not_take_a_job_does_not_get_it_again(option: str) -> None:
    situation = _with("overspill_to@batch=overspill+ovs-b", **_two_sites())
    decision = decide(_ask(overspill_option=option), situation, "d-1", refused_by=["site-a"])
    assert decision.refusals["site-a"] == "came_back"
    assert decision.site == ("" if option == "site-a" else "site-b")
    assert decide(_ask(), situation, "d-1", refused_by=["site-a", "site-b"]).reason == "came_back"


def _diverted(slurm_job_id: int, account: str = "physics", **changes: Any) -> Job:
    trail = Trail("d", "site-a", "batch")
    plain = {"partitions": ("batch", "overspill"), "trail": trail, "cpus": 2, "account": account}
    return job(slurm_job_id, **{**plain, **changes})


@pytest.mark.parametrize(
    ("words", "fields", "reason"),
    [
        ("overspill_max_jobs_per_account=3", {"account": "physics"}, "max_jobs_per_account"),
        ("overspill_max_jobs_per_account=4", {"account": "physics"}, ""),
        ("overspill_max_jobs_per_account=0,overspill_max_jobs_per_account@physics=4", {"account": "physics"}, ""),
        ("overspill_max_jobs_per_account@chem=0", {"account": "physics"}, ""),
        ("overspill_max_jobs_per_account=3", {"account": "chem", "array": "1-4"}, "max_jobs_per_account"),
        ("overspill_max_jobs_per_account=3", {"account": "chem", "array": "1-4%3"}, ""),
        # 2 h of the pending job, 10 h of the array's tasks, and 1 h of a promise.
        ("overspill_max_cpu_hours=14", {"account": "physics", "time_limit_min": 60}, ""),
        ("overspill_max_cpu_hours=13", {"account": "physics", "time_limit_min": 60}, "max_cpu_hours"),
        ("overspill_max_cpu_hours=14", {"account": "physics", "time_limit_min": 61}, "max_cpu_hours"),
        ("overspill_max_cpu_hours=3", {"account": "chem", "time_limit_min": 60, "array": "1-4%2"}, "max_cpu_hours"),
        ("overspill_max_cpu_hours=4", {"account": "chem", "time_limit_min": 60, "array": "1-4%2"}, ""),
        ("overspill_max_cpu_hours=999999999", {"account": "chem", "time_limit_min": 0xFFFFFFFF}, "max_cpu_hours"),
        ("overspill_max_cpu_hours@physics=0", {"account": "chem", "time_limit_min": 0xFFFFFFFF}, "target_time_default"),
    ],
)
@pytest.mark.parametrize("mode", ["on", "always"])
def test_an_account_gets_no_more_than_it_is_allowed(words: str, fields: dict[str, Any], reason: str, mode: str) -> None:
    of = snapshot(
        *full_batch(),
        _diverted(7),
        _diverted(8, cpus=1, tasks=1, all_tasks=10, time_limit_s=3600),
        _diverted(9, "chem", state="COMPLETED"),
        _diverted(10, partitions=("batch",)),
        job(11, cpus=1000),
    )
    target = {"overspill": replace(OVERSPILL, default_time_s=60), "batch": partition()}
    of = replace(of, partitions=target)
    policy = parse_policy([f"{_WORDS.format(mode=mode)},{words}"])[0]
    known = replace(queue(of), used=claims(of.jobs))
    situation = _situation(policy=policy, queue=known, promised_use={"physics": AccountUse(1, 3600)})
    decision = _decide(situation, **fields)
    assert (decision.verdict, decision.reason if reason else "") == (
        (Verdict.LOCAL, reason) if reason else (Verdict.DIVERT, "")
    )


def test_where_accounts_are_limited_and_nobody_knows_the_account_or_its_use_a_job_stays() -> None:
    of = snapshot(*full_batch())
    dbd = replace(CONFIG, has_slurmdbd=True)
    limited = {"words": "overspill_max_jobs_per_account=9"}
    known = replace(queue(of), used={})
    assert _decide(_with(**limited, queue=known)).verdict is Verdict.DIVERT
    assert _decide(_with(**limited, queue=replace(known, config=dbd))).reason == "account_unknown"
    assert _decide(_with(**limited, queue=replace(known, used=None))).reason == "use_unknown"
    assert _decide(_situation(queue=replace(known, config=dbd, used=None))).verdict is Verdict.DIVERT


def test_jobs_with_more_gpus_than_the_admin_allows_stay() -> None:
    gpus = {"tres": ["gres:gpu:2"], "tres_scopes": ["job"]}
    assert _decide(_with("overspill_gpus=1"), **gpus).reason == "policy_gpus"
    assert _decide(_with("overspill_gpus=2"), **gpus).reason != "policy_gpus"
    assert _decide(_with("overspill_gpus=0")).verdict is Verdict.DIVERT


@pytest.mark.parametrize("mode", ["on", "always"])
def test_a_site_on_trial_gets_a_few_jobs_at_a_time(mode: str) -> None:
    words = parse_policy([_WORDS.format(mode=mode)])[0]
    of = snapshot(*full_batch(), running(7, "ovs1", 1, partitions=("overspill",)))
    on_trial = _situation(of=of, policy=words, on_trial=frozenset({"overspill"}))
    assert _decide(on_trial, array="1-2").verdict is Verdict.DIVERT
    assert _decide(on_trial, array="1-3").reason == "site_on_trial"
    assert _decide(replace(on_trial, promised_jobs={"site-a": 2})).reason == "site_on_trial"
    assert _decide(replace(on_trial, on_trial=frozenset({"ovs-b"})), array="1-3").verdict is Verdict.DIVERT
