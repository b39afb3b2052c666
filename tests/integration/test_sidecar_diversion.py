"""Diverted submissions on a real Slurm: promises that lapse, arrays, a site's own hook, GPUs, several sites."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.diversion import look_often, wait_until
from tests.rig import ClusterOptions, Rig
from tests.rig.routing import ask_router
from tests.rig.slurm_conf import SECOND_PARTITION, SECOND_VIRTUAL_NODE, VIRTUAL_NODE

_NOTHING = "#!/bin/sh\n:\n"
_SLEEP = "#!/bin/sh\nexec sleep 3600\n"
_SIDECAR_TOML = "/etc/overspill/sidecar.toml"
_JOB_SUBMIT = "/etc/slurm/job_submit.lua"
#: A site's hook that runs before ours and has a comment of its own for jobs of that name.
_SITES_OWN_HOOK = """\
local overspill = require "overspill"
function slurm_job_submit(job_desc, part_list, submit_uid)
  if job_desc.name == "tagged" then
    job_desc.admin_comment = '{"site": {"ticket": 7}}'
  elseif job_desc.name == "noted" then
    job_desc.admin_comment = "see ticket 7"
  end
  return overspill.submit(job_desc, part_list, submit_uid)
end
function slurm_job_modify() return slurm.SUCCESS end
return slurm.SUCCESS
"""


def _fill_batch(rig: Rig) -> None:
    for _ in range(rig.options.cluster.real_nodes):
        filler = rig.sbatch(_SLEEP, "--nodes=1", "--ntasks=2", "--time=1:00:00", "--overspill=never", user="bob")
        rig.wait_for_state(filler, "RUNNING")


def _wait_for_answer(rig: Rig, wanted: str, *options: str, user: str = "slurm") -> None:
    """Wait until the router's reason about a job of these options is `wanted`, or its partition is."""

    def is_so() -> bool:
        answer = ask_router(rig, *options, user=user)
        return answer is not None and wanted in {answer["reason"], *str(answer["partition"]).split(",")}

    wait_until(is_so, timeout_s=40, what=f"the answer {wanted}")


def _partitions(rig: Rig, job_id: int) -> set[str]:
    return set(rig.job(job_id)["Partition"].split(","))


def _cancel(rig: Rig, job_id: int) -> None:
    rig.cluster.run(["scancel", str(job_id)], check=True)
    rig.wait_for_state(job_id, "CANCELLED")


@pytest.fixture(name="full_rig", scope="module")
def _full_rig() -> Iterator[Rig]:
    """A rig whose `batch` is full, whose promises live for 4 s, and which has a job_submit.lua of its own."""
    with Rig.up() as rig:
        toml = rig.cluster.path(_SIDECAR_TOML).read_text()
        rig.cluster.write(_SIDECAR_TOML, toml.replace("[router]\n", "[router]\npromise_s = 4.0\n"))
        rig.cluster.write(_JOB_SUBMIT, _SITES_OWN_HOOK)
        look_often(rig)
        _fill_batch(rig)
        _wait_for_answer(rig, "wait_above_threshold", "--ntasks=8")
        yield rig


@pytest.mark.parametrize(
    "submission",
    [
        pytest.param(("--test-only",), id="test-only"),
        pytest.param(("--array=0-5000%1",), id="rejected-after-the-hook"),  # above MaxArraySize
    ],
)
def test_what_is_promised_to_a_job_that_never_appears_is_free_again(full_rig: Rig, submission: tuple[str, ...]) -> None:
    rig = full_rig
    _wait_for_answer(rig, "wait_above_threshold", "--ntasks=8")
    rig.cluster.run(["sbatch", "--ntasks=8", *submission], user="alice", stdin=_NOTHING)
    _wait_for_answer(rig, "no_free_slot", "--ntasks=8")
    _wait_for_answer(rig, "wait_above_threshold", "--ntasks=8")


def test_an_array_goes_if_all_that_may_run_at_once_fits(full_rig: Rig) -> None:
    _wait_for_answer(full_rig, "wait_above_threshold", "--ntasks=8")
    throttled = full_rig.sbatch(_SLEEP, "--array=1-20%8")
    assert "overspill" in _partitions(full_rig, throttled)
    full_rig.cluster.run(["scancel", str(throttled)], check=True)
    _wait_for_answer(full_rig, "wait_above_threshold", "--ntasks=8")
    all_at_once = full_rig.sbatch(_SLEEP, "--array=1-20")
    assert _partitions(full_rig, all_at_once) == {"batch"}
    full_rig.cluster.run(["scancel", str(all_at_once)], check=True)


def test_an_image_that_no_site_offers_keeps_the_job_and_the_user_is_told(full_rig: Rig) -> None:
    _wait_for_answer(full_rig, "wait_above_threshold")
    said = full_rig.cluster.run(
        ["sbatch", "--parsable", "--overspill-image=bench"], user="alice", stdin=_NOTHING, check=True
    )
    assert "overspill: --overspill-image=bench: no site offers it (there is none): this job stays here" in said.stderr
    kept = int(said.stdout)
    assert _partitions(full_rig, kept) == {"batch"}
    _cancel(full_rig, kept)


def test_the_decision_joins_what_the_sites_own_hook_says_of_the_job(full_rig: Rig) -> None:
    _wait_for_answer(full_rig, "wait_above_threshold", "--ntasks=8")
    tagged = full_rig.sbatch(_NOTHING, "--job-name=tagged")
    comment = json.loads(full_rig.job(tagged)["AdminComment"])
    assert comment["site"] == {"ticket": 7}
    assert (comment["overspill"]["site"], comment["overspill"]["partition"]) == ("site-a", "batch")
    full_rig.wait_for_state(tagged, "COMPLETED", timeout_s=60)


def test_a_comment_of_the_site_that_is_no_json_object_keeps_the_job_and_itself(full_rig: Rig) -> None:
    _wait_for_answer(full_rig, "wait_above_threshold", "--ntasks=8")
    noted = full_rig.sbatch(_NOTHING, "--job-name=noted")
    assert _partitions(full_rig, noted) == {"batch"}
    assert full_rig.job(noted)["AdminComment"] == "see ticket 7"
    _cancel(full_rig, noted)


def test_a_deadline_that_no_hook_sees_brings_the_job_home_as_soon_as_it_shows(full_rig: Rig) -> None:
    _wait_for_answer(full_rig, "wait_above_threshold", "--ntasks=8")
    job_id = full_rig.sbatch(_NOTHING, "--deadline=now+2hours", "--time=10")
    wait_until(lambda: full_rig.job(job_id)["Restarts"] == "1", timeout_s=30, what="the job to leave")
    wait_until(lambda: _partitions(full_rig, job_id) == {"batch"}, timeout_s=30, what="the job to be home")
    wait_until(lambda: "refused_by" in full_rig.job(job_id)["AdminComment"], timeout_s=30, what="its mark")
    assert b"overspill" not in full_rig.output(job_id)
    full_rig.cluster.run(["scancel", str(job_id)], check=True)


_ODD_JOBS = [
    ("--time=1491308-0",),
    ("--time=2147483647",),
    ("--ntasks=2147483647", "--cpus-per-task=65000"),
    ("--nodes=1000000-2000000",),
    ("--begin=2106-01-01",),
    ("--deadline=2106-01-01", "--time=10"),
    ("--partition=" + "batch," * 150 + "batch",),
    (
        "--job-name=a\x1eb\x1fc\n7\x1f",
        "--comment=\x1e\n7\x1f",
        "--wckey=x\x1ey",
        "--qos=q\x1e",
        "--account=a\x1e\n7\x1f",
    ),
    ("--job-name=\udcff\udcfe",),
    ("--array=1,3,5-9:2%1",),
]


def _taken(rig: Rig, *options: str) -> list[int]:
    """Submit a job; return its id, or nothing where sbatch itself finds a number too large, as that of 26.05 does."""
    done = rig.cluster.run(["sbatch", "--parsable", *options], user="alice", stdin=_NOTHING)
    assert done.returncode == 0 or " too large for " in done.stderr, done.stderr
    return [int(done.stdout)] if done.returncode == 0 else []


def test_odd_jobs_of_one_user_neither_end_the_router_nor_blind_it(full_rig: Rig) -> None:
    rig, before = full_rig, full_rig.options.policy
    odd = [job_id for options in _ODD_JOBS for job_id in _taken(rig, "--hold", *options)]
    odd += [job_id for options in _ODD_JOBS for job_id in _taken(rig, *options, "--overspill=auto")]
    rig.set_policy(f"{before},overspill_deny_users=alice")
    _wait_for_answer(rig, "policy_user", user="alice")
    rig.cluster.run(["scancel", *map(str, odd)], check=True)
    rig.set_policy(before)
    _wait_for_answer(rig, "wait_above_threshold", "--ntasks=8", user="alice")


def test_new_words_count_after_a_reconfigure_and_wrong_ones_leave_the_last_good(full_rig: Rig) -> None:
    rig, before = full_rig, full_rig.options.policy
    rig.set_policy(f"{before},overspill_deny_users=alice")
    _wait_for_answer(rig, "policy_user", user="alice")
    kept = rig.sbatch(_NOTHING)
    assert _partitions(rig, kept) == {"batch"}
    _cancel(rig, kept)
    rig.set_policy(f"{before},overspill_deny_users=,overspill_max_time=-5,overspill_to=ovs-typo")
    _wait_for_answer(rig, "policy_user", user="alice")
    _wait_for_answer(rig, "overspill", user="bob")
    rig.set_policy(f"{before},overspill_notify=on")
    _wait_for_answer(rig, "wait_above_threshold", user="alice")
    said = rig.cluster.run(["sbatch", "--parsable"], user="alice", stdin=_NOTHING)
    assert said.stdout.strip().isdecimal()
    assert "overspill: this job may run at site-a (partition overspill) if that is sooner" in said.stderr
    rig.set_policy(before)


@pytest.fixture(name="two_sites", scope="module")
def _two_sites() -> Iterator[Rig]:
    """A rig with two sites whose `batch` is full."""
    policy = f"overspill_mode=on,overspill_wait=00:01:00,overspill_to=overspill+{SECOND_PARTITION}"
    with Rig.up(policy=policy, cluster=ClusterOptions(has_second_site=True)) as rig:
        look_often(rig)
        _fill_batch(rig)
        _wait_for_answer(rig, "overspill", "--ntasks=8")
        yield rig


def test_what_the_first_site_has_no_room_for_goes_to_the_second(two_sites: Rig) -> None:
    _wait_for_answer(two_sites, "overspill", "--ntasks=8")
    first = two_sites.sbatch(_SLEEP, "--ntasks=8")
    assert two_sites.wait_for_state(first, "RUNNING")["NodeList"] == VIRTUAL_NODE
    _wait_for_answer(two_sites, SECOND_PARTITION, "--ntasks=8")
    second = two_sites.sbatch("#!/bin/sh\necho second; uname -n\n", "--ntasks=8")
    job = two_sites.wait_for_state(second, "COMPLETED", timeout_s=60)
    assert (job["NodeList"], json.loads(job["AdminComment"])["overspill"]["site"]) == (SECOND_VIRTUAL_NODE, "site-b")
    assert two_sites.output(second) == b"second\nsite\n"
    _cancel(two_sites, first)


def test_a_user_may_name_his_site(two_sites: Rig) -> None:
    _wait_for_answer(two_sites, "option_site", "--overspill=site-b")
    job_id = two_sites.sbatch(_NOTHING, "--overspill=site-b")
    assert two_sites.wait_for_state(job_id, "COMPLETED", timeout_s=60)["NodeList"] == SECOND_VIRTUAL_NODE
    submit = ["sbatch", "--parsable", "--hold", "--overspill=site-c"]
    said = two_sites.cluster.run(submit, user="alice", stdin=_NOTHING, check=True)
    assert "--overspill=site-c: no such site (site-a, site-b), nor auto, never or always" in said.stderr
    assert _partitions(two_sites, int(said.stdout)) == {"batch"}
    _cancel(two_sites, int(said.stdout))


def test_a_site_whose_virtual_node_is_drained_is_passed_over(two_sites: Rig) -> None:
    _wait_for_answer(two_sites, "overspill", "--ntasks=8")
    drain = ["scontrol", "update", f"NodeName={VIRTUAL_NODE}"]
    two_sites.cluster.run([*drain, "State=DRAIN", "Reason=test"], check=True)
    _wait_for_answer(two_sites, SECOND_PARTITION)
    job_id = two_sites.sbatch(_NOTHING)
    assert two_sites.wait_for_state(job_id, "COMPLETED", timeout_s=60)["NodeList"] == SECOND_VIRTUAL_NODE
    two_sites.cluster.run([*drain, "State=RESUME"], check=True)
    _wait_for_answer(two_sites, "overspill")


def test_a_site_that_is_excluded_is_passed_over(two_sites: Rig) -> None:
    _wait_for_answer(two_sites, "overspill", "--ntasks=8")
    job_id = two_sites.sbatch(_NOTHING, f"--exclude={VIRTUAL_NODE}")
    assert two_sites.wait_for_state(job_id, "COMPLETED", timeout_s=60)["NodeList"] == SECOND_VIRTUAL_NODE


def test_each_partition_may_have_its_own_order_of_sites(two_sites: Rig) -> None:
    before = two_sites.options.policy
    two_sites.set_policy(f"{before},overspill_to@batch={SECOND_PARTITION}+overspill")
    _wait_for_answer(two_sites, SECOND_PARTITION)
    job_id = two_sites.sbatch(_NOTHING)
    assert SECOND_PARTITION in _partitions(two_sites, job_id)
    two_sites.set_policy(before)
    _wait_for_answer(two_sites, "overspill")


def test_a_site_that_does_not_answer_is_passed_over(two_sites: Rig) -> None:
    _wait_for_answer(two_sites, "overspill", "--ntasks=8")
    two_sites.site.daemon("agent").stop()
    _wait_for_answer(two_sites, SECOND_PARTITION)
    job_id = two_sites.sbatch(_NOTHING)
    assert two_sites.wait_for_state(job_id, "COMPLETED", timeout_s=60)["NodeList"] == SECOND_VIRTUAL_NODE
    two_sites.site.daemon("agent").start()
    _wait_for_answer(two_sites, "overspill")


def test_gpus_of_a_type_go_to_a_site_that_has_them_with_the_sites_own_devices() -> None:
    cluster = ClusterOptions(accounting="associations", gpus=2, gpu_type="a100")
    with Rig.up(policy="overspill_mode=always", cluster=cluster) as rig:

        def is_seen() -> bool:
            answer = ask_router(rig, "--gpus=a100:1", user="alice")
            return answer is not None and answer["verdict"] == "DIVERT"

        wait_until(is_seen, timeout_s=30, what="the site's GPUs")
        other = ask_router(rig, "--gpus=t4:1", user="alice")
        assert other is not None
        assert (other["verdict"], other["reason"]) == ("LOCAL", "gpu_type")
        for asked, devices in (("--gpus=a100:2", 2), ("--gres=gpu:a100:1", 1), ("--gpus-per-node=a100:1", 1)):
            job_id = rig.sbatch("#!/bin/sh\necho $CUDA_VISIBLE_DEVICES | tr , '\\n' | wc -l\n", asked)
            job = rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
            assert job["NodeList"] == VIRTUAL_NODE
            assert rig.output(job_id).split() == [str(devices).encode()]


def test_what_a_gpu_brings_at_home_it_brings_at_the_site() -> None:
    cluster = ClusterOptions(accounting="associations", gpus=2)
    with Rig.up(policy="overspill_mode=always", cluster=cluster) as rig:
        defaults = ["scontrol", "update", "PartitionName=batch", "JobDefaults=DefMemPerGPU=300,DefCpuPerGPU=2"]
        rig.cluster.run(defaults, check=True)

        def is_seen() -> bool:
            answer = ask_router(rig, "--gpus=1", user="alice")
            return answer is not None and (answer["memory_per_gpu_mib"], answer["cpus_per_gpu"]) == (300, 2)

        wait_until(is_seen, timeout_s=30, what="the defaults of batch")
        job_id = rig.sbatch(_NOTHING, "--gpus=1")
        job = rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
        assert (job["NodeList"], job["NumCPUs"]) == (VIRTUAL_NODE, "2")
        assert (job["CpusPerTres"], job["MemPerTres"]) == ("gres:gpu:2", "gres:gpu:300")
