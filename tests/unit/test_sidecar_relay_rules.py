"""What the relay decides without I/O: who may call, what a signal means, how a job ends."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import NotPermittedError
from overspill.v1 import agent_pb2
from overspill_sidecar.cluster import JobDetails, Trail
from overspill_sidecar.config import SiteConfig, TlsConfig
from overspill_sidecar.relay.connection import Hello, Payload
from overspill_sidecar.relay.ending import EndAs, GoHome, Requeue, ending_of
from overspill_sidecar.relay.signals import remote_signal
from overspill_sidecar.relay.submission import check_is_ours, request_id_of, submit_request, wish_against
from tests.unit.sidecar_cluster import running, snapshot

_JOB = running(7, "ovs1", cpus=2, left_s=600, partitions=("overspill",), memory_mib=200, submit_time_s=1000)
_DIVERTED = replace(_JOB, trail=Trail("d-1", "site-a", "batch"))
_SITE = SiteConfig(
    name="site-a",
    partition="overspill",
    agent="site:7443",
    nodes="ovs[1-2]",
    tls=TlsConfig.model_validate({"certificate": "/c", "private_key": "/k", "ca": "/a"}),
)
_HELLO = Hello.model_validate(
    {
        "protocol": 1,
        "slurm_job_id": 7,
        "restart_count": 0,
        "cwd": "L2hvbWUv/w==",
        "umask": 0o027,
        "rlimits": {"NOFILE": [1024, -1]},
        "has_stdin": True,
        "is_output_joined": False,
        "stdout": 0,
        "stderr": 0,
    }
)


def test_the_job_itself_is_admitted() -> None:
    check_is_ours(_JOB, 2001, _HELLO, _SITE, snapshot())
    check_is_ours(replace(_JOB, state="COMPLETING"), 2001, _HELLO, _SITE, snapshot())
    check_is_ours(_JOB, 2001, _HELLO, _SITE.model_copy(update={"nodes": ""}), snapshot())


def test_a_count_of_restarts_that_was_inherited_from_another_job_is_no_offence() -> None:
    check_is_ours(_JOB, 2001, _HELLO.model_copy(update={"restart_count": 5}), _SITE, snapshot())


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("there is no such job", {"job": None}),
        ("the job is user 2001's", {"user_id": 2002}),
        ("the job is user 2001's", {"user_id": 0}),
        ("attempt 0 of a job whose attempt 1 is due", {"job": replace(_JOB, state="COMPLETING", restart_count=1)}),
        ("the job is PENDING", {"job": replace(_JOB, state="PENDING")}),
        ("the job is COMPLETED", {"job": replace(_JOB, state="COMPLETED")}),
        ("partition overspill is no site's", {"site": None}),
        ("its batch host c1 is no virtual node", {"job": replace(_JOB, batch_host="c1")}),
        (
            "its batch host c1 is no virtual node",
            {"job": replace(_JOB, batch_host="c1"), "site": _SITE.model_copy(update={"nodes": ""})},
        ),
    ],
)
def test_a_stranger_is_told_from_a_job(why: str, changes: dict[str, Any]) -> None:
    caller = {"job": _JOB, "user_id": 2001, "hello": _HELLO, "site": _SITE, "snapshot": snapshot(), **changes}
    with pytest.raises(NotPermittedError, match=why):
        check_is_ours(**caller)


def test_what_is_submitted_is_the_proxys_process_and_slurms_word_on_whose_it_is() -> None:
    payload = Payload(b"#!/bin/sh\n\xff", [b"/spool/slurm_script", b""], [b"A=1\n2", b"B=\xfe"])
    request = submit_request(
        request_id_of(_JOB, "rig"),
        replace(_JOB, account="physics"),
        JobDetails(),
        _HELLO,
        payload,
        kill_wait_s=5,
        home="here",
        home_lease_s=3600,
    )
    spec = request.spec
    assert str(request_id_of(_JOB, "rig")) == "rig/7/1000/0"
    assert not request.request_id.HasField("array_task_id")
    assert (spec.script, list(spec.argv), list(spec.environment)) == (payload.script, payload.argv, payload.environment)
    assert (spec.cwd, spec.umask, spec.has_stdin, spec.is_output_joined) == (b"/home/\xff", 0o027, True, False)
    assert (spec.user_name, spec.user_id, spec.group_id, spec.account) == ("alice", 2001, 2001, "physics")
    assert (spec.resources.cpus, spec.resources.memory_mib, spec.time_limit_s, spec.kill_wait_s) == (2, 200, 660, 5)
    assert (spec.rlimits[0].name, spec.rlimits[0].soft, spec.rlimits[0].hard) == ("NOFILE", 1024, 2**64 - 1)


@pytest.mark.parametrize(
    ("trail", "partition", "image"),
    [(None, "overspill", ""), (Trail("d-1", "site-a", "batch,long", image="bench"), "batch", "bench")],
)
def test_the_site_is_told_what_its_catalogue_goes_by(trail: Trail | None, partition: str, image: str) -> None:
    request = submit_request(
        request_id_of(_JOB, "rig"),
        replace(_JOB, trail=trail, gpus=2),
        JobDetails("avx2&bench", "a100"),
        _HELLO,
        Payload(b"x", [b"s"], []),
        kill_wait_s=5,
        home="here",
        home_lease_s=3600,
    )
    spec = request.spec
    assert (spec.partition, spec.image, spec.constraint) == (partition, image, "avx2&bench")
    assert spec.resources == agent_pb2.Resources(cpus=2, memory_mib=200, gpus=2, gpu_type="a100")


def test_task_zero_of_an_array_is_a_task() -> None:
    request = submit_request(
        request_id_of(replace(_JOB, array_task_id=0), "rig"),
        _JOB,
        JobDetails(),
        _HELLO,
        Payload(b"x", [b"s"], []),
        kill_wait_s=5,
        home="here",
        home_lease_s=3600,
    )
    assert request.request_id.HasField("array_task_id")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGCONT])
def test_what_slurm_sends_to_end_or_resume_a_job_reaches_all_its_processes(number: int) -> None:
    assert remote_signal(number, is_job_ending=True) == (number, agent_pb2.SIGNAL_SCOPE_TREE)


def test_suspension_stops_all_processes_for_certain() -> None:
    assert remote_signal(signal.SIGTSTP, is_job_ending=False) == (signal.SIGSTOP, agent_pb2.SIGNAL_SCOPE_TREE)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGWINCH, 40]
)
def test_what_only_scancel_batch_can_have_sent_reaches_the_shell_only(number: int) -> None:
    assert remote_signal(number, is_job_ending=False) == (number, agent_pb2.SIGNAL_SCOPE_SHELL)


def _ended(outcome: str, **fields: Any) -> agent_pb2.Ended:
    return agent_pb2.Ended(outcome=agent_pb2.RunOutcome.Value(f"RUN_OUTCOME_{outcome}"), **fields)


@pytest.mark.parametrize(
    ("ended", "end"),
    [
        (_ended("COMPLETED", exit_code=0), {"exit_code": 0}),
        (_ended("COMPLETED", exit_code=7), {"exit_code": 7}),
        (_ended("SIGNALED", signal=11), {"signal": 11}),
        (_ended("CANCELLED"), {"signal": 15}),
        (_ended("CANCELLED", signal=9), {"signal": 9}),
        (_ended("TIMEOUT", reason="time limit"), {"signal": 15}),
        (_ended("TIMEOUT", signal=9), {"signal": 9}),
    ],
)
def test_an_end_that_slurm_can_show_itself_is_passed_on_without_a_word(
    ended: agent_pb2.Ended, end: dict[str, int]
) -> None:
    ending = ending_of(ended, _DIVERTED, "site-a")
    assert isinstance(ending, EndAs)
    assert json.loads(ending.to_json()) == end


def test_a_job_that_ran_out_of_memory_dies_of_kill_and_says_why() -> None:
    ending = ending_of(_ended("OUT_OF_MEMORY", reason="limit\n200 MiB"), _DIVERTED, "site-a")
    assert ending == EndAs(signal_number=9, message="site-a: the job ran out of memory: limit 200 MiB")


@pytest.mark.parametrize("outcome", ["NODE_FAIL", "LOST", "UNSPECIFIED"])
def test_a_loss_at_the_site_is_a_node_failure(outcome: str) -> None:
    assert isinstance(ending_of(_ended(outcome), _DIVERTED, "site-a"), Requeue)
    ending = ending_of(_ended(outcome), replace(_DIVERTED, can_requeue=False), "site-a")
    assert isinstance(ending, EndAs)
    assert ending.exit_code == 1
    assert ending.message.startswith("site-a: the ")


def test_a_job_that_the_site_could_not_start_goes_home_if_it_has_one() -> None:
    assert isinstance(ending_of(_ended("REJECTED", reason="no image"), _DIVERTED, "site-a"), GoHome)
    ending = ending_of(_ended("REJECTED", reason="no image"), _JOB, "site-a")
    assert ending == EndAs(exit_code=1, message="site-a: the site could not start the job: no image")


@given(
    st.integers(0, 20),
    st.integers(0, 255),
    st.integers(0, 64),
    st.sampled_from([_JOB, _DIVERTED, replace(_DIVERTED, can_requeue=False)]),
)
def test_only_a_script_that_ended_with_0_completes_the_job(outcome: int, exit_code: int, number: int, job: Any) -> None:
    ended = agent_pb2.Ended(outcome=outcome, exit_code=exit_code, signal=number)  # type: ignore[arg-type]
    ending = ending_of(ended, job, "site-a")
    if isinstance(ending, EndAs) and json.loads(ending.to_json()).get("exit_code") == 0:
        assert (outcome, exit_code) == (agent_pb2.RUN_OUTCOME_COMPLETED, 0)


_NEVER = b"SLURM_SPANK__SLURM_SPANK_OPTION_overspill_overspill=never"
_IMAGE = b"SLURM_SPANK__SLURM_SPANK_OPTION_overspill_overspill_image=bench"


@pytest.mark.parametrize(
    ("trail", "environment", "is_against"),
    [
        (Trail("d", "site-a", "batch", added_at_s=1), [b"A=1"], False),
        (Trail("d", "site-a", "batch", added_at_s=1), [b"A=1", _NEVER], True),
        (Trail("d", "site-a", "batch", added_at_s=1), [_NEVER.replace(b"never", b"always")], False),
        (Trail("d", "site-a", "batch", added_at_s=1), [_IMAGE], True),
        (Trail("d", "site-a", "batch", added_at_s=1, image="bench"), [_IMAGE], False),
        (Trail("d", "site-a", "batch"), [_NEVER], False),
        (None, [_NEVER], False),
    ],
)
def test_a_wish_that_was_not_noted_is_found_in_the_environment_of_a_job_that_was_let_go_late(
    trail: Trail | None, environment: list[bytes], *, is_against: bool
) -> None:
    assert (wish_against(replace(_JOB, trail=trail), environment) is not None) == is_against
