"""The hook as slurmctld calls it: what it returns, logs and tells, and that nothing gets past it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lua_runtime import SHIM, VERSIONS, new_runtime

SUCCESS, ACCESS_DENIED = 0, 2002

# Stands in for slurmctld, and for a router whose gRPC answers are given as tables: `answer` is called for each.
SLURMCTLD = """
log, told, asked, now = {}, {}, 0, 1000
slurm = {
  SUCCESS = 0, ERROR = -1, ESLURM_ACCESS_DENIED = 2002, CLUSTER_NAME = "rig",
  log_info = function(format, ...) log[#log + 1] = format:format(...) end,
  log_error = function(format, ...) log[#log + 1] = "error: " .. format:format(...) end,
  log_user = function(format, ...) told[#told + 1] = format:format(...) end,
}
package.preload["socket"] = function() return { gettime = function() return now end } end
package.preload["socket.unix"] = function() return { stream = function() end } end
overspill = require "overspill"
local protobuf, router = require "overspill.protobuf", require "overspill.router"
local Client = require "overspill.grpc"
function Client:call(method, message, deadline)
  asked = asked + 1
  local response, problem = answer(self, deadline)
  return response and protobuf.encode(router.RESPONSE_SCHEMA, response), problem
end
divert = { verdict = 2, partition = "batch,overspill", admin_comment = '{"site":"a"}', time_limit_min = 60 }
part_list = { batch = {}, overspill = {} }
function submit(job) return overspill.submit(job, part_list, 0) end
"""


@pytest.fixture(params=VERSIONS)
def slurmctld(request: pytest.FixtureRequest) -> Any:
    runtime = new_runtime(request.param)
    runtime.execute(SLURMCTLD)
    return runtime


def test_a_diversion_is_applied_to_the_job(slurmctld: Any) -> None:
    slurmctld.execute("function answer() return divert end; job = { script = '#!/bin/sh' }; code = submit(job)")
    job = dict(slurmctld.globals().job)
    assert slurmctld.eval("code") == SUCCESS
    assert job == {
        "script": "#!/bin/sh",
        "partition": "batch,overspill",
        "admin_comment": '{"overspill":{"site":"a"}}',
        "time_limit": 60,
    }
    assert (slurmctld.eval("#log"), slurmctld.eval("#told")) == (0, 0)


def test_a_refusal_is_an_error_code_and_a_line_for_the_user(slurmctld: Any) -> None:
    slurmctld.execute("function answer() return { verdict = 3, user_message = 'not 100% there' } end")
    assert slurmctld.eval("submit { partition = 'overspill' }") == ACCESS_DENIED
    assert list(slurmctld.eval("told").values()) == ["not 100% there"]


def test_a_slurm_without_that_error_code_gets_the_general_one(slurmctld: Any) -> None:
    slurmctld.execute("slurm.ESLURM_ACCESS_DENIED = nil; function answer() return { verdict = 3 } end")
    assert slurmctld.eval("submit { partition = 'overspill' }") == -1


def test_a_job_that_no_answer_can_change_is_not_asked_about(slurmctld: Any) -> None:
    slurmctld.execute("function answer() return divert end; code = submit { name = 'srun without a partition' }")
    assert (slurmctld.eval("code"), slurmctld.eval("asked")) == (SUCCESS, 0)


def test_a_sidecar_that_hangs_is_met_ever_more_rarely_and_logged_once(slurmctld: Any) -> None:
    slurmctld.execute("""
      function answer() return nil, { kind = "deadline", detail = "no answer in time" } end
      for second = 1, 300 do now = 1000 + second; assert(submit { script = "x" } == 0) end
    """)
    assert slurmctld.eval("asked") == 6 + 8  # at 0, 1, 3, 7, 15, 31 s, then every half minute
    (told,) = slurmctld.eval("log").values()
    assert told == (
        "error: overspill: no answer from the sidecar at /run/overspill/router.sock "
        "(deadline: no answer in time): jobs run locally, next try in 1 s"
    )


def test_a_sidecar_that_comes_back_is_logged_once(slurmctld: Any) -> None:
    slurmctld.execute("""
      function answer() return nil, { kind = "unavailable", detail = "connect: refused" } end
      for _ = 1, 3 do submit { script = "x" } end
      now = now + 1
      function answer() return divert end
      for _ = 1, 3 do submit { script = "x" } end
    """)
    assert slurmctld.eval("asked") == 6
    assert slurmctld.eval("#log") == 2
    assert slurmctld.eval("log[2]") == "overspill: the sidecar answers again"


@pytest.mark.parametrize(
    "trouble",
    [
        "function answer() error('a defect') end",
        "function answer() error({}) end",
        "function answer() return { verdict = 2 } end",
        "part_list = nil; function answer() return divert end",
        "job = nil; function answer() return divert end",
        "job = setmetatable({}, { __index = function() error('no such field') end })",
        "job = setmetatable({ script = 'x' }, { __newindex = error }); function answer() return divert end",
        "slurm.log_error = nil; function answer() return nil, { kind = 'deadline', detail = '' } end",
        "package.preload['socket'] = function() error('module not found') end",
    ],
)
def test_trouble_of_any_kind_leaves_the_job_local_and_is_logged_at_most_twice(slurmctld: Any, trouble: str) -> None:
    slurmctld.execute(f"job = {{ script = 'x' }}; {trouble}")
    assert [slurmctld.eval("submit(job)") for _ in range(20)] == [SUCCESS] * 20
    assert slurmctld.eval("job and rawget(job, 'partition')") is None
    assert slurmctld.eval("#log") <= 2


def test_jobs_that_cannot_be_described_do_not_keep_the_router_from_others(slurmctld: Any) -> None:
    slurmctld.execute("""
      function answer() return divert end
      for _ = 1, 5 do submit { script = "x", min_mem_per_cpu = 2 ^ 60 } end
      job = { script = "x" }
      submit(job)
    """)
    assert (slurmctld.eval("job.partition"), slurmctld.eval("#log")) == ("batch,overspill", 1)


def test_without_lua_socket_jobs_run_locally_and_the_log_says_why(slurmctld: Any) -> None:
    slurmctld.execute("""
      package.preload["socket.unix"] = nil
      for _ = 1, 10 do assert(submit { script = "x" } == 0) end
    """)
    assert slurmctld.eval("#log") == 1
    assert "lua-socket is not installed" in slurmctld.eval("log[1]")


def test_a_request_beyond_any_reason_is_not_sent(slurmctld: Any) -> None:
    slurmctld.execute("function answer() return divert end; job = { script = 'x', dependency = ('1,'):rep(200000) }")
    assert slurmctld.eval("submit(job)") == SUCCESS
    assert (slurmctld.eval("asked"), slurmctld.eval("job.partition")) == (0, None)


def test_settings_reach_the_call(slurmctld: Any) -> None:
    slurmctld.execute("""
      function answer(client, deadline) path, left = client.path, deadline:left_s(); return divert end
      submit { script = "x" }
      assert(path == "/run/overspill/router.sock" and left > 0.0449 and left < 0.0451)
      overspill.configure { socket = "/tmp/r.sock", deadline_s = 0.2 }
      submit { script = "x" }
    """)
    assert slurmctld.eval("path") == "/tmp/r.sock"
    assert slurmctld.eval("left") == pytest.approx(0.2, abs=1e-4)
    assert slurmctld.eval("#log") == 0


@pytest.mark.parametrize(
    "settings",
    ["socket = 'relative'", "socket = 5", "deadline_s = 0", "deadline_s = -1", "deadline_s = 3600", "deadline_s = '1'",
     "deadline_s = 0/0"],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_logged_and_left_at_its_default(slurmctld: Any, settings: str) -> None:
    slurmctld.execute(f"""
      function answer(client, deadline) path, left = client.path, deadline:left_s(); return divert end
      overspill.configure {{ {settings} }}
      submit {{ script = "x" }}
    """)
    assert (slurmctld.eval("path"), slurmctld.eval("#log")) == ("/run/overspill/router.sock", 1)
    assert slurmctld.eval("left") == pytest.approx(0.045, abs=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_shipped_hook_defines_both_functions_even_where_overspill_is_missing(version: str) -> None:
    runtime = new_runtime(version)
    runtime.execute("package.path = ''; log = {}")
    runtime.execute("slurm = { SUCCESS = 0, log_error = function(format, ...) log[#log + 1] = format:format(...) end }")
    runtime.execute((SHIM / "job_submit.lua").read_text())
    assert runtime.eval("slurm_job_submit({ script = 'x' }, {}, 0)") == SUCCESS
    assert runtime.eval("slurm_job_modify({}, {}, {}, 0)") == SUCCESS
    assert runtime.eval("#log") == 1


ALLOWED_GLOBALS = {
    "require", "error", "pcall", "type", "tostring", "ipairs", "pairs", "setmetatable", "string", "table", "math", "os",
    "slurm",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(SHIM.glob("overspill/*.lua")), ids=lambda path: path.name)
def test_a_module_uses_no_global_but_luas_own_and_sets_none(path: Path) -> None:
    listing = subprocess.run(["luac5.1", "-l", "-p", path], check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"GETGLOBAL.*; (\w+)", listing)) <= ALLOWED_GLOBALS
    assert re.findall(r"SETGLOBAL.*; (\w+)", listing) == []


_NEVER = "script = 'x', spank_job_env_size = 1, spank_job_env = { [0] = '_SLURM_SPANK_OPTION_overspill_overspill=%s' }"


def test_a_wish_is_noted_whether_the_router_is_asked_or_answers_or_not(slurmctld: Any) -> None:
    slurmctld.execute(f"job = {{ {_NEVER % 'never'} }}; submit(job)")
    assert (slurmctld.eval("asked"), slurmctld.eval("job.admin_comment")) == (0, '{"overspill":{"option":"never"}}')
    slurmctld.execute(
        "function answer() return nil, { kind = 'deadline', detail = 'none' } end\n"
        f"job = {{ {_NEVER % 'always'} }}; submit(job)"
    )
    assert (slurmctld.eval("asked"), slurmctld.eval("job.admin_comment")) == (1, '{"overspill":{"option":"always"}}')
