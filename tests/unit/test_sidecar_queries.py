"""Reading what a real Slurm 22.05.8 printed (`slurm_22_05/`), and refusing what it would never print."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import UnavailableError
from overspill_sidecar.cluster import Job, JobDetails, Reservation, Trail
from overspill_sidecar.slurm import queries
from overspill_sidecar.slurm.process import environment

_RECORDED = Path(__file__).parent / "slurm_22_05"
#: What was asked to end the records that were recorded.
_END = "\x1e"


def _text(name: str) -> str:
    return (_RECORDED / f"{name}.txt").read_bytes().decode()


@pytest.fixture(name="jobs", scope="module")
def _jobs() -> dict[int, Job]:
    return {job.slurm_job_id: job for job in queries.parse_jobs(_text("jobs"), _END)}


def test_a_running_job_is_read_whole(jobs: dict[int, Job]) -> None:
    job = jobs[22]
    assert (job.state, job.partitions, job.nodes, job.batch_host) == ("RUNNING", ("batch",), "c1", "c1")
    assert (job.user_id, job.user_name, job.group_id) == (2001, "alice", 2001)
    assert (job.cpus, job.memory_mib, job.time_limit_s) == (2, 200, 1800)
    assert (job.start_time_s, job.end_time_s) == (1795258246, 1795260046)
    assert job.is_active
    assert not job.is_pending


def test_array_tasks_have_their_own_job_ids_and_the_rest_of_the_array_is_one_record(jobs: dict[int, Job]) -> None:
    assert (jobs[30].array_task_id, jobs[31].array_task_id, jobs[22].array_task_id) == (1, 2, None)
    assert (jobs[23].is_pending, jobs[23].tasks) == (True, 2)
    assert [jobs[job_id].name for job_id in (30, 31, 22)] == ["23_1", "23_2", "22"]


def test_jobs_that_wait_for_something_of_their_own_do_not_compete(jobs: dict[int, Job]) -> None:
    assert [jobs[job_id].reason for job_id in (23, 25, 26, 28)] == [
        "JobArrayTaskLimit",
        "JobHeldUser",
        "BeginTime",
        "Resources",
    ]
    assert [jobs[job_id].is_competing for job_id in (23, 25, 26, 28)] == [False, False, False, True]


def test_a_job_in_several_partitions_lists_them(jobs: dict[int, Job]) -> None:
    assert jobs[25].partitions == ("batch", "long")


def test_since_when_a_job_may_start_is_told_and_what_it_takes(jobs: dict[int, Job]) -> None:
    assert [jobs[job_id].eligible_time_s for job_id in (22, 25, 26)] == [1795258246, None, 1795261846]
    assert (jobs[26].node_count, jobs[26].account, jobs[26].qos, jobs[26].reservation) == (1, "", "", "")


def test_a_job_without_limit_has_none_and_no_planned_end(jobs: dict[int, Job]) -> None:
    assert (jobs[28].time_limit_s, jobs[28].end_time_s) == (None, None)


def test_our_trail_is_found_beside_the_sites_own_comment() -> None:
    (job,) = queries.parse_jobs(_text("job"), _END)
    assert job.trail == Trail("d-1", "site-a", "batch")
    assert job.admin_comment.startswith('{"site":{"note":"kept"}')
    assert not job.can_requeue


def test_a_name_full_of_newlines_and_a_comment_full_of_keys_forge_nothing(jobs: dict[int, Job]) -> None:
    assert sorted(jobs) == [22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33]
    assert (jobs[28].state, jobs[29].user_name) == ("PENDING", "bob")


@pytest.mark.parametrize(
    "comment",
    ["(null)", "", "free text", '"overspill"', '{"overspill": 7}', '["overspill"]', '{"overspill": {"decision"'],
)
def test_what_others_write_into_the_admin_comment_is_no_trail(comment: str) -> None:
    assert queries.parse_trail(comment) is None


def test_options_that_no_hook_shows_show_in_the_queue() -> None:
    text = _text("job").replace("N/A\x1fN/A\x1f", "1795269457\x1f1\x1f")
    assert queries.parse_jobs(text, _END)[0].hidden_options == ("deadline", "core-spec")
    assert queries.parse_jobs(_text("job"), _END)[0].hidden_options == ()


def test_no_jobs_is_an_answer() -> None:
    assert queries.parse_jobs("", _END) == ()


@pytest.mark.parametrize(
    "text",
    [
        "squeue: something else\n",
        _text("jobs")[:-30],
        _text("jobs").replace("\x1f", "|"),
        _text("jobs").replace("RUNNING\x1f", "", 1),
        _text("jobs").replace("4294901743", "high", 1),
    ],
)
def test_half_an_answer_is_no_answer(text: str) -> None:
    with pytest.raises(UnavailableError):
        queries.parse_jobs(text, _END)


@given(st.text(alphabet=st.sampled_from("\x1e\x1f\n01aA=|,"), max_size=200))
def test_no_text_makes_the_parsers_fail_in_another_way(text: str) -> None:
    for parse in (
        partial(queries.parse_jobs, record_end=_END),
        queries.parse_partitions,
        queries.parse_nodes,
        queries.parse_config,
        queries.parse_reservations,
    ):
        try:
            parse(text)
        except UnavailableError:
            continue


def test_partitions_are_read_with_their_limits() -> None:
    partitions = queries.parse_partitions(_text("partitions"))
    batch, overspill = partitions["batch"], partitions["overspill"]
    assert (batch.is_default, batch.is_up, batch.nodes) == (True, True, ("c1", "c2", "c3", "c4"))
    assert (batch.max_time_s, batch.default_time_s, batch.given_time_s) == (86400, 3600, 3600)
    assert (overspill.is_default, overspill.max_time_s, overspill.max_nodes) == (False, None, 1)
    assert (batch.allow_accounts, batch.is_restricted, batch.is_exclusive) == ((), False, False)


def test_a_partition_for_some_only_is_told_from_one_for_all() -> None:
    line = _text("partitions").splitlines()[0]
    for_some = queries.parse_partitions(line.replace("AllowGroups=ALL", "AllowGroups=hpc"))["batch"]
    assert (for_some.is_for_some_users, for_some.is_restricted) == (True, False)
    named = queries.parse_partitions(line.replace("AllowAccounts=ALL", "AllowAccounts=a,b"))["batch"]
    assert named.allow_accounts == ("a", "b")
    denied = queries.parse_partitions(line.replace("AllowAccounts=ALL", "DenyAccounts=c"))["batch"]
    assert denied.deny_accounts == ("c",)


@pytest.mark.parametrize(
    "word", ["OverSubscribe=EXCLUSIVE", "ExclusiveUser=YES", "ExclusiveTopo=YES", "Exclusive=NODE", "Exclusive=USER"]
)
def test_a_partition_whose_nodes_are_not_shared_is_told_as_each_slurm_says_it(word: str) -> None:
    line = re.sub("(OverSubscribe|ExclusiveUser)=NO", "", _text("partitions").splitlines()[0])
    name = word.partition("=")[0]
    assert not queries.parse_partitions(f"{line} {name}=NO")["batch"].is_exclusive
    assert queries.parse_partitions(f"{line} {word}")["batch"].is_exclusive


def test_nodes_are_read_with_what_is_allocated() -> None:
    nodes = queries.parse_nodes(_text("nodes"))
    assert sorted(nodes) == ["c1", "c2", "c3", "c4", "ovs1"]
    assert (nodes["c1"].cpus, nodes["c1"].cpus_allocated, nodes["c1"].memory_allocated_mib) == (2, 2, 200)
    assert (nodes["c1"].is_usable, nodes["c1"].partitions) == (True, ("batch", "long"))


@pytest.mark.parametrize("state", ["IDLE+DRAIN", "DOWN*", "IDLE*", "MIXED+DRAIN", "INVAL", "DOWN+NOT_RESPONDING"])
def test_a_node_that_starts_no_job_is_not_usable(state: str) -> None:
    line = _text("nodes").splitlines()[0].replace("State=ALLOCATED", f"State={state}")
    assert not queries.parse_nodes(line)["c1"].is_usable


@pytest.mark.parametrize("state", ["IDLE", "MIXED", "ALLOCATED+COMPLETING", "MIXED+PLANNED", "IDLE+CLOUD+POWERED_DOWN"])
def test_a_node_that_starts_jobs_now_or_when_it_is_free_is_usable(state: str) -> None:
    line = _text("nodes").splitlines()[0].replace("State=ALLOCATED", f"State={state}")
    assert queries.parse_nodes(line)["c1"].is_usable


def test_a_reason_text_on_a_node_changes_nothing_before_it() -> None:
    line = _text("nodes").splitlines()[0] + " Reason=bad State=IDLE CPUTot=99 [root@1795258246]"
    assert queries.parse_nodes(line)["c1"].cpus == 2


def test_the_configuration_holds_policy_words_and_defaults() -> None:
    config = queries.parse_config(_text("config"))
    assert (config.cluster_name, config.kill_wait_s, config.memory_per_cpu_mib) == ("rig", 5, 100)
    assert config.manages_memory
    assert any("overspill_wait=00:01:00" in text for text in config.parameters)
    assert any("overspill_wait@long=04:00:00" in text for text in config.parameters)


def test_slurms_commands_see_no_setting_of_the_admins_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    seen = environment()
    assert "SQUEUE_FORMAT" not in seen
    assert (seen["SLURM_TIME_FORMAT"], seen["SLURM_CONF"]) == ("%s", "/etc/slurm/slurm.conf")


def test_an_update_is_one_argument_per_field_whatever_is_in_it() -> None:
    argv = queries.update_argv("7", {"AdminComment": '{"a": "b c; $(d)"}'})
    assert argv == ["scontrol", "update", "JobId=7", 'AdminComment={"a": "b c; $(d)"}']


def test_a_nodes_reason_is_whole_and_free_text_behind_it_is_no_part_of_it() -> None:
    line = "NodeName=ovs1 State=IDLE+DRAIN Reason=overspill: site-a down [slurm@1795266947] Comment=a Reason=b [c@d]\n"
    node = queries.parse_nodes(line)["ovs1"]
    assert (node.is_drained, node.is_usable, node.reason) == (True, False, "overspill: site-a down")


def test_a_reason_ends_with_the_state_that_it_explains() -> None:
    line = "NodeName=ovs1 State={} Reason=overspill: site-a down [slurm@1795266947]\n"
    reasons = {
        state: queries.parse_nodes(line.format(state))["ovs1"].reason for state in ("IDLE", "DOWN*", "MIXED+DRAIN")
    }
    assert reasons == {"IDLE": "", "DOWN*": "overspill: site-a down", "MIXED+DRAIN": "overspill: site-a down"}


def test_a_jobs_account_cannot_make_records_of_other_jobs() -> None:
    """Without accounting, a user may name any text as the account, newlines included (seen on 22.05)."""
    record = _text("jobs").partition(_END)[0].removesuffix("(null)")
    forged = f"x{_END}\n7{record.removeprefix('23')}physics"
    for account, shown in (("physics", "physics"), (forged, ""), ("a b", ""), ("(null)", "")):
        (job,) = queries.parse_jobs(f"{record}{account}{_END}secret\n", f"{_END}secret")
        assert (job.slurm_job_id, job.account) == (23, shown)


@pytest.mark.parametrize(
    ("line", "details"),
    [
        ("7 intel&avx512 N/A N/A N/A N/A ", JobDetails("intel&avx512")),
        ("7 (null) N/A gres:gpu:A100:2 N/A N/A ", JobDetails(gpu_type="a100")),
        ("7 (null) gres/gpu:tesla:1 N/A N/A N/A ", JobDetails(gpu_type="tesla")),
        ("7 (null) gres/gpu=2 N/A N/A N/A ", JobDetails()),
        ("7 (null) N/A gres:gpu:a:1,gres:gpu:b:1 N/A N/A ", JobDetails()),
        ("7      ", JobDetails()),
    ],
)
def test_what_a_job_asks_for_is_read(line: str, details: JobDetails) -> None:
    assert queries.parse_details(f"{line}\n") == {7: details}


def test_what_was_done_to_a_pending_job_is_read_from_its_trail() -> None:
    ours = '"decision":"d","partition":"batch","time_limit_s":"600","added_at_s":7,"recalled_at_s":"soon"'
    trail = queries.parse_trail('{"overspill":{' + ours + "}}")
    assert trail == Trail("d", "", "batch", time_limit="600", added_at_s=7, recalled_at_s=0)


def test_a_users_wish_is_no_trail() -> None:
    assert queries.parse_trail('{"overspill":{"option":"never"}}') is None


def test_the_rest_of_an_array_says_which_tasks_wait_together(jobs: dict[int, Job]) -> None:
    several = [each.array_tasks for each in jobs.values() if each.array_tasks]
    assert several
    assert not any("%" in tasks for tasks in several)
    assert jobs[30].array_tasks == ""


@pytest.mark.parametrize(
    ("state", "is_up", "starts_jobs"),
    [("UP", True, True), ("DRAIN", False, True), ("DOWN", False, False), ("INACTIVE", False, False)],
)
def test_a_partition_that_takes_no_new_jobs_may_start_those_that_it_has(
    state: str, *, is_up: bool, starts_jobs: bool
) -> None:
    line = _text("partitions").splitlines()[0].replace("State=UP", f"State={state}")
    batch = queries.parse_partitions(line)["batch"]
    assert (batch.is_up, batch.starts_jobs) == (is_up, starts_jobs)


def test_reservations_are_read_with_what_they_take() -> None:
    assert queries.parse_reservations(_text("reservations")) == (
        Reservation("maint1", ("c1",), 1795310000, 1795313600, 2),
        Reservation("cores", ("c3",), 1795306400, 1795310000, 1),
    )
    assert queries.parse_reservations("No reservations in the system\n") == ()
    with pytest.raises(UnavailableError):
        queries.parse_reservations("ReservationName=x StartTime=soon EndTime=later\n")


def test_what_age_adds_to_a_priority_is_read() -> None:
    config = queries.parse_config(
        "ClusterName = rig\nKillWait = 30 sec\nPriorityMaxAge = 7-00:00:00\nPriorityWeightAge = 1000\n"
    )
    assert (config.priority_weight_age, config.priority_max_age_s) == (1000, 7 * 86400)
    basic = queries.parse_config(_text("config"))
    assert (basic.priority_weight_age, basic.priority_max_age_s) == (0, 0)


@pytest.mark.parametrize(
    ("controllers", "acting"),
    [
        ("", ""),
        ("Slurmctld(primary) at ctl1 is UP\n", ""),
        ("Slurmctld(primary) at ctl1 is UP\nSlurmctld(backup) at ctl2 is UP\n", "ctl1"),
        ("Slurmctld(primary) at ctl1 is DOWN\nSlurmctld(backup1) at ctl2 is UP\n", "ctl2"),
    ],
)
def test_of_several_controllers_the_first_that_is_up_acts(controllers: str, acting: str) -> None:
    text = "ClusterName = rig\nKillWait = 30 sec\n\n" + controllers
    assert queries.parse_config(text).acting_controller == acting
