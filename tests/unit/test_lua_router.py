"""What the shim asks for a job, and what it makes of the answer."""

from typing import Any

import pytest

from tests.unit.lua_runtime import VERSIONS, module, new_runtime, to_lua

NO_VAL16, NO_VAL, INFINITE = 65534, 4294967294, 4294967295
DIVERT, REFUSE = 2, 3

# `sbatch --wrap true` as Slurm 22.05.8 shows it to Lua; what is absent is nil there.
PLAIN_JOB = {
    "alloc_node": "login1", "argc": 0, "begin_time": 0, "bitflags": 503316480, "boards_per_node": 0, "contiguous": 0,
    "cores_per_socket": NO_VAL16, "cpus_per_task": NO_VAL16, "cron_job": False, "delay_boot": NO_VAL, "end_time": 0,
    "group_id": 2001, "het_job_offset": NO_VAL, "immediate": 0, "max_cpus": NO_VAL, "max_nodes": NO_VAL, "min_cpus": 1,
    "min_nodes": NO_VAL, "name": "wrap", "ntasks_per_node": NO_VAL16, "ntasks_per_tres": NO_VAL16, "num_tasks": NO_VAL,
    "pn_min_cpus": NO_VAL16, "pn_min_memory": 1.8446744073709552e19, "pn_min_tmp_disk": NO_VAL, "priority": NO_VAL,
    "reboot": NO_VAL16, "req_switch": NO_VAL, "script": "#!/bin/sh\ntrue\n", "shared": NO_VAL16,
    "spank_job_env_size": 0, "threads_per_core": NO_VAL16, "time_limit": NO_VAL, "time_min": NO_VAL, "user_id": 2001,
    "user_name": "alice", "wait4switch": NO_VAL, "work_dir": "/home/alice",
}  # fmt: skip

# What a plain job is to the router; all else is at proto3's default.
PLAIN_REQUEST = {
    "user_id": 2001, "job_name": "wrap", "has_script": True, "min_cpus": 1, "work_dir": "/home/alice",
    "open_partitions": ["batch"],
}  # fmt: skip


_LISTS = {"tres", "tres_scopes", "odd_options", "open_partitions"}


@pytest.fixture(params=VERSIONS)
def runtime(request: pytest.FixtureRequest) -> Any:
    return new_runtime(request.param)


def _job(runtime: Any, changes: dict[str, Any]) -> Any:
    job: dict[str, Any] = {key: value for key, value in (PLAIN_JOB | changes).items() if value is not None}
    spank = job.get("spank_job_env")
    if spank is not None:  # a table that begins at 0
        job["spank_job_env"] = dict(enumerate(spank))
        job["spank_job_env_size"] = len(spank)
    return to_lua(runtime, job)


def _request(runtime: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the request's fields that are not at their default."""
    part_list = to_lua(runtime, {"batch": {}})
    request = module(runtime, "router").request(_job(runtime, changes), "rig", part_list)
    fields = {}
    for name, value in request.items():
        python_value = list(value.values()) if name in _LISTS else value
        if python_value not in (0, "", False, []):
            fields[name] = python_value
    return fields


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"user_id": NO_VAL16}, {"user_id": NO_VAL16}),  # nobody
        ({"account": "physics", "qos": "high", "partition": "batch,long"},
         {"account": "physics", "qos": "high", "partition": "batch,long"}),
        ({"time_limit": 90}, {"time_limit_min": 90}),
        ({"time_limit": INFINITE}, {"time_limit_min": INFINITE}),
        ({"min_nodes": 1, "max_nodes": 4, "num_tasks": 3, "cpus_per_task": 2, "min_cpus": 6},
         {"min_nodes": 1, "max_nodes": 4, "num_tasks": 3, "cpus_per_task": 2, "min_cpus": 6}),
        ({"num_tasks": NO_VAL16, "min_cpus": NO_VAL16}, {"num_tasks": NO_VAL16, "min_cpus": NO_VAL16}),
        ({"ntasks_per_node": 2}, {"tasks_per_node": 2}),
        ({"min_mem_per_node": 200}, {"memory_per_node_mib": 200}),
        ({"min_mem_per_cpu": 50}, {"memory_per_cpu_mib": 50}),
        ({"min_mem_per_node": 0}, {"asks_all_memory": True}),
        ({"tres_per_node": "gres:gpu:1", "tres_per_task": "gres:gpu:2"},
         {"tres": ["gres:gpu:1", "gres:gpu:2"], "tres_scopes": ["node", "task"]}),
        ({"tres_per_job": "gres:gpu:1", "cpus_per_tres": "gres:gpu:2", "mem_per_tres": "gres:gpu:100"},
         {"tres": ["gres:gpu:1"], "tres_scopes": ["job"], "cpus_per_tres": "gres:gpu:2",
          "mem_per_tres": "gres:gpu:100"}),
        ({"cpus_per_task": 4, "tres_per_task": "cpu=4"}, {"cpus_per_task": 4}),  # 24.11: --cpus-per-task=4
        ({"tres_per_task": "cpu:4,gres/gpu:1"}, {"tres": ["gres/gpu:1"], "tres_scopes": ["task"]}),
        ({"features": "a&b", "reservation": "r", "licenses": "l:1", "req_nodes": "c1", "exc_nodes": "c2",
          "dependency": "singleton", "array_inx": "1-5%2", "container": "/x"},
         {"features": "a&b", "reservation": "r", "licenses": "l:1", "required_nodes": "c1", "excluded_nodes": "c2",
          "dependency": "singleton", "array": "1-5%2", "container": "/x"}),
        ({"burst_buffer": "capacity=1G"}, {"burst_buffer": "capacity=1G"}),
        ({"script": "#!/bin/sh\n# note\n#BB create\ntrue\n"}, {"burst_buffer": "#BB create"}),
        ({"script": "#!/bin/sh\n\n#DW jobdw x\n"}, {"burst_buffer": "#DW jobdw x"}),
        ({"script": "#!/bin/sh\ntrue\n#BB create\n"}, {}),
        ({"begin_time": 1795260557}, {"begin_time_s": 1795260557}),
        ({"priority": 0}, {"is_held": True}),
        ({"het_job_offset": 0}, {"is_het": True}),
        ({"shared": 0}, {"is_exclusive": True}),  # --exclusive
        ({"shared": 1}, {}),  # --oversubscribe
        ({"shared": 2}, {"is_exclusive": True}),  # --exclusive=user
        ({"shared": 3}, {"is_exclusive": True}),  # --exclusive=mcs
        ({"core_spec": 0}, {"odd_options": ["core-spec"]}),
        ({"core_spec": 2}, {"odd_options": ["core-spec"]}),
        ({"thread_spec": 1}, {"odd_options": ["thread-spec"]}),
        ({"core_spec": NO_VAL16}, {}),
        ({"req_switch": 2, "pn_min_tmp_disk": 5, "time_min": 1, "reboot": 1, "contiguous": 1},
         {"odd_options": ["switches", "tmp", "time-min", "reboot", "contiguous"]}),
        ({"pn_min_cpus": 2, "sockets_per_node": 1, "cores_per_socket": 2, "threads_per_core": 2},
         {"odd_options": ["sockets-per-node", "cores-per-socket", "threads-per-core", "mincpus"]}),
        ({"pn_min_cpus": 4, "cpus_per_task": 4}, {"cpus_per_task": 4}),
        ({"pn_min_cpus": 5, "cpus_per_task": 4}, {"cpus_per_task": 4, "odd_options": ["mincpus"]}),
        ({"ntasks_per_socket": 1, "ntasks_per_core": 1, "ntasks_per_tres": 1},
         {"odd_options": ["ntasks-per-socket", "ntasks-per-core", "ntasks-per-gpu"]}),
        ({"clusters": "rig"}, {}),
        ({"clusters": "rig,other"}, {"odd_options": ["clusters"]}),
        ({"cron_job": True}, {"is_cron": True}),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_other_overspill=never",
                            "_SLURM_SPANK_OPTION_overspill_overspill=always"]}, {"overspill_option": "always"}),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill=never",
                            "_SLURM_SPANK_OPTION_overspill_overspill=auto"]}, {"overspill_option": "auto"}),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill_image=bench"]}, {"image": "bench"}),
    ],
)  # fmt: skip
def test_each_field_of_the_job_becomes_its_field_of_the_request(
    runtime: Any, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert _request(runtime, changes) == PLAIN_REQUEST | expected


@pytest.mark.parametrize("comments", ["#\n" * 50_000, "#" * 100_000 + "\n"], ids=["lines", "one line"])
def test_comments_without_end_are_not_read_through_and_count_as_a_burst_buffer(runtime: Any, comments: str) -> None:
    found = _request(runtime, {"script": comments + "#BB create\n"})["burst_buffer"]
    assert (found[0], "create" in found, len(found) <= 4096) == ("#", False, True)


def test_a_job_without_a_script_says_so(runtime: Any) -> None:
    assert "has_script" not in _request(runtime, {"script": None})


NEVER = ["_SLURM_SPANK_OPTION_overspill_overspill=never"]


@pytest.mark.parametrize(
    ("changes", "is_asked"),
    [
        ({}, True),
        ({"partition": "batch"}, True),
        ({"spank_job_env": NEVER}, False),
        ({"spank_job_env": NEVER, "partition": "overspill"}, False),
        ({"script": None}, False),
        ({"script": None, "partition": ""}, False),
        ({"script": None, "partition": "overspill"}, True),
        ({"script": None, "partition": "overspill", "spank_job_env": NEVER}, True),
        ({"het_job_offset": 0}, False),
        ({"het_job_offset": 1, "script": None}, False),
        ({"het_job_offset": 1, "script": None, "partition": "overspill"}, True),
        ({"cron_job": True}, False),
        ({"name": "x" * 4096}, True),
        ({"name": "\xff" * 4097}, False),
        ({"tres_per_node": "gpu," * 1025}, False),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill=" + "x" * 4097]}, False),
    ],
)
def test_the_router_is_asked_only_where_its_answer_can_matter(
    runtime: Any, changes: dict[str, Any], *, is_asked: bool
) -> None:
    assert module(runtime, "router").must_be_asked(_job(runtime, changes)) is is_asked


def _action(runtime: Any, response: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    router = module(runtime, "router")
    whole = {"verdict": DIVERT, "partition": "batch,overspill", "admin_comment": '{"site":"a"}', "user_message": ""}
    numbers = dict.fromkeys(
        ("time_limit_min", "memory_per_cpu_mib", "memory_per_node_mib", "memory_per_gpu_mib", "cpus_per_gpu"), 0
    )
    part_list = to_lua(runtime, {"batch": {}, "overspill": {}})
    action = router.action(to_lua(runtime, whole | numbers | response), _job(runtime, changes), part_list)
    return {key: dict(value) if key == "fields" else value for key, value in action.items()}


def test_a_diversion_sets_the_partition_and_the_comment_and_nothing_else(runtime: Any) -> None:
    assert _action(runtime, {}, {}) == {
        "verdict": "divert",
        "partition": "batch,overspill",
        "fields": {"admin_comment": '{"overspill":{"site":"a"}}'},
        "message": "",
    }


@pytest.mark.parametrize(
    ("response", "changes", "pinned"),
    [
        ({"time_limit_min": 60}, {}, {"time_limit": 60}),
        ({"time_limit_min": 60}, {"time_limit": 5}, {}),
        ({"time_limit_min": 60}, {"time_limit": INFINITE}, {}),
        ({"memory_per_cpu_mib": 100}, {}, {"min_mem_per_cpu": 100}),
        ({"memory_per_node_mib": 100}, {}, {"min_mem_per_node": 100}),
        ({"memory_per_cpu_mib": 100}, {"min_mem_per_node": 0}, {}),
        ({"memory_per_cpu_mib": 100}, {"min_mem_per_cpu": 7}, {}),
        ({"memory_per_node_mib": 100}, {"mem_per_tres": "gres:gpu:5"}, {}),
        ({"memory_per_gpu_mib": 100, "cpus_per_gpu": 2}, {},
         {"mem_per_tres": "gres:gpu:100", "cpus_per_tres": "gres:gpu:2"}),
        ({"memory_per_gpu_mib": 100, "cpus_per_gpu": 2}, {"mem_per_tres": "gres:gpu:5", "cpus_per_tres": "gres:gpu:1"},
         {}),
        ({"memory_per_gpu_mib": 100}, {"min_mem_per_cpu": 7}, {}),
    ],
)  # fmt: skip
def test_a_default_is_pinned_only_where_the_user_asked_for_nothing(
    runtime: Any, response: dict[str, Any], changes: dict[str, Any], pinned: dict[str, Any]
) -> None:
    fields = _action(runtime, response, changes)["fields"]
    assert {key: value for key, value in fields.items() if key != "admin_comment"} == pinned


@pytest.mark.parametrize(
    ("own", "merged"),
    [
        (None, '{"overspill":{"site":"a"}}'),
        ("", '{"overspill":{"site":"a"}}'),
        (" \n", '{"overspill":{"site":"a"}}'),
        ("{}", '{"overspill":{"site":"a"}}'),
        ('{"site_tag":1}', '{"site_tag":1,"overspill":{"site":"a"}}'),
        ('{"overspill":{"site":"old"},"b":2}', '{"b":2,"overspill":{"site":"a"}}'),
    ],
)
def test_the_decision_joins_the_sites_own_admin_comment(runtime: Any, own: str | None, merged: str) -> None:
    assert _action(runtime, {}, {"admin_comment": own})["fields"]["admin_comment"] == merged


@pytest.mark.parametrize("own", ["project X", "[1]", '{"a":1', "{}{}"])
def test_a_job_whose_admin_comment_is_no_json_object_stays_local_and_keeps_it(runtime: Any, own: str) -> None:
    action = _action(runtime, {}, {"admin_comment": own})
    assert (action["verdict"], "fields" in action) == ("local", False)
    assert "admin_comment" in action["problem"]


@pytest.mark.parametrize("partition", ["", "batch,gone", "gone"])
def test_a_partition_that_slurm_would_reject_leaves_the_job_local(runtime: Any, partition: str) -> None:
    assert _action(runtime, {"partition": partition}, {})["verdict"] == "local"


@pytest.mark.parametrize("comment", ["", "site a", "[]", '{"a":'])
def test_an_answer_whose_comment_is_no_json_object_leaves_the_job_local(runtime: Any, comment: str) -> None:
    assert _action(runtime, {"admin_comment": comment}, {})["verdict"] == "local"


@pytest.mark.parametrize("verdict", [0, 1, 4, 2**31])
def test_any_other_verdict_leaves_the_job_local(runtime: Any, verdict: int) -> None:
    assert _action(runtime, {"verdict": verdict}, {}) == {"verdict": "local", "message": ""}


def test_a_refusal_always_has_words_for_the_user(runtime: Any) -> None:
    assert _action(runtime, {"verdict": REFUSE, "user_message": "no"}, {}) == {"verdict": "refuse", "message": "no"}
    assert _action(runtime, {"verdict": REFUSE}, {})["message"] != ""


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({}, None),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill=auto"]}, None),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill=never"]}, '{"overspill":{"option":"never"}}'),
        (
            {
                "spank_job_env": [
                    "_SLURM_SPANK_OPTION_overspill_overspill=site-a",
                    "_SLURM_SPANK_OPTION_overspill_overspill_image=bench",
                ],
                "admin_comment": '{"site":1}',
            },
            '{"site":1,"overspill":{"option":"site-a","image":"bench"}}',
        ),
        ({"spank_job_env": ['_SLURM_SPANK_OPTION_overspill_overspill=a","b":"c']}, '{"overspill":{"option":"?"}}'),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill=" + 65 * "a"]}, '{"overspill":{"option":"?"}}'),
        ({"clusters": "rig,other"}, '{"overspill":{"stays":"odd_option"}}'),
        ({"clusters": "rig"}, None),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill=never"], "admin_comment": "ticket 7"}, None),
        ({"spank_job_env": ["_SLURM_SPANK_OPTION_overspill_overspill=never"], "script": None}, None),
    ],
)
def test_what_a_user_wishes_and_slurm_does_not_show_is_noted_in_the_job(
    runtime: Any, changes: dict[str, Any], noted: str | None
) -> None:
    assert module(runtime, "router").with_wish(_job(runtime, changes), "rig") == noted
