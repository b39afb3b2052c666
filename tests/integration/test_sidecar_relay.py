"""The relay between real sockets: a job's whole way, and everything that can break on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from overspill.proxy_framing import HEADER, OFFSET, FrameType, encode
from overspill.v1 import agent_pb2 as pb
from tests.integration.sidecar_agent import Certificates
from tests.integration.sidecar_road import Proxy, Road, diverted_job, eventually, road


@pytest.fixture(name="way")
async def _way(tmp_path: Path) -> AsyncIterator[Road]:
    async with road(tmp_path) as way:
        yield way


async def test_a_job_goes_all_the_way_and_its_run_is_released(way: Road) -> None:
    proxy = await way.running(umask=0o027)
    run = way.agent.run
    await run.write(b"out 1\n")
    await run.write(b"err\n", to_stderr=True)
    await run.write(b"out 2\n")
    await run.end("COMPLETED", exit_code=7)
    assert await proxy.end() == {"exit_code": 7}
    assert {name: bytes(data) for name, data in proxy.output.items()} == {1: b"out 1\nout 2\n", 2: b"err\n"}
    assert (run.spec.script, list(run.spec.argv)) == (b"#!/bin/sh\n", [b"/spool/slurm_script", b"one", b""])
    assert (list(run.spec.environment), run.spec.umask) == ([b"A=1", b"B=2"], 0o027)
    await eventually(lambda: run.is_released, "the run is released")
    assert run.stop_reason is None


async def test_a_script_killed_by_a_signal_ends_the_job_by_that_signal(way: Road) -> None:
    proxy = await way.running()
    await way.agent.run.end("SIGNALED", signal=11)
    assert await proxy.end() == {"signal": 11}


async def test_signals_reach_the_site_in_order_with_their_scope_and_are_acknowledged(way: Road) -> None:
    proxy = await way.running()
    numbers = [signal.SIGUSR1, signal.SIGTSTP, signal.SIGCONT, signal.SIGTERM]
    for sequence, number in enumerate(numbers, 1):
        await proxy.signal(sequence, number)
    acknowledged = [OFFSET.unpack(await proxy.until(FrameType.SIGNAL_ACK))[0] for _ in numbers]
    assert acknowledged == [1, 2, 3, 4]
    shell, tree = pb.SIGNAL_SCOPE_SHELL, pb.SIGNAL_SCOPE_TREE
    assert way.agent.run.signals == [(10, shell), (19, tree), (18, tree), (15, shell)]


async def test_a_time_limit_that_is_changed_reaches_the_site_also_after_a_break(way: Road) -> None:
    await way.running()
    before = way.view.jobs[7].time_limit_s
    await eventually(lambda: way.agent.run.time_limit_s == before, "the limit as it is")
    way.view.jobs[7] = replace(way.view.jobs[7], time_limit_s=7200)
    await eventually(lambda: way.agent.run.time_limit_s == 7200, "the longer limit")
    await way.agent.stop()
    way.view.jobs[7] = replace(way.view.jobs[7], time_limit_s=None)
    await asyncio.sleep(0.5)
    await way.agent.start()
    await eventually(lambda: way.agent.run.time_limit_s == 0, "no limit")


@pytest.mark.parametrize("is_slurm_answering", [True, False])
async def test_the_signal_by_which_slurm_ends_a_job_reaches_all_its_processes(
    way: Road, *, is_slurm_answering: bool
) -> None:
    proxy = await way.running()
    if is_slurm_answering:
        way.view.jobs[7] = replace(way.view.jobs[7], state="COMPLETING")
    way.view.is_answering = is_slurm_answering
    await proxy.signal(1, signal.SIGTERM)
    await proxy.until(FrameType.SIGNAL_ACK)
    assert way.agent.run.signals == [(15, pb.SIGNAL_SCOPE_TREE)]


async def test_a_signal_that_slurm_passes_on_at_this_moment_is_for_the_shell_alone(way: Road) -> None:
    """Its state is SIGNALING to squeue."""
    proxy = await way.running()
    way.view.jobs[7] = replace(way.view.jobs[7], state="SIGNALING")
    await proxy.signal(1, signal.SIGTERM)
    await proxy.until(FrameType.SIGNAL_ACK)
    assert way.agent.run.signals == [(15, pb.SIGNAL_SCOPE_SHELL)]


async def test_standard_input_arrives_whole(way: Road) -> None:
    proxy = await way.running(has_stdin=True)
    assert OFFSET.unpack(await proxy.until(FrameType.STDIN_FROM)) == (0,)
    await proxy.stdin(0, b"one ")
    await proxy.stdin(4, b"two")
    await proxy.stdin(7, b"")
    await eventually(lambda: way.agent.run.is_stdin_complete, "the end of standard input")
    assert way.agent.run.stdin == b"one two"


async def test_what_the_users_files_hold_is_acknowledged_to_the_agent(way: Road) -> None:
    proxy = await way.running()
    run = way.agent.run
    await run.write(b"x" * 3_000_000)
    taking = asyncio.create_task(proxy.end())
    await eventually(lambda: run.acknowledged[0] >= 2_000_000, "written bytes are acknowledged")
    await run.end("COMPLETED", exit_code=0)
    assert await taking == {"exit_code": 0}


# What breaks


async def test_a_proxy_that_dies_has_its_run_stopped(way: Road) -> None:
    proxy = await way.running()
    proxy.close()
    await eventually(lambda: way.agent.run.stop_reason, "the run is stopped")
    assert way.agent.run.stop_reason == "the job's local process is gone"


async def test_a_proxy_that_dies_before_the_site_has_answered_has_its_run_stopped(way: Road) -> None:
    way.agent.takes_runs.clear()
    proxy = await way.opened()
    await eventually(lambda: way.agent.asked_to_submit, "the run is submitted")
    proxy.close()
    await asyncio.sleep(0.3)
    way.agent.takes_runs.set()
    await eventually(lambda: way.agent.runs and way.agent.run.stop_reason, "the run is stopped")


async def test_a_dying_attempt_that_meets_a_new_relay_starts_no_run_of_the_next_attempt(way: Road) -> None:
    await way.running()
    way.view.jobs[7] = replace(way.view.jobs[7], state="COMPLETING", restart_count=1, submit_time_s=1_800_000_100)
    await way.restart_relay()
    assert await (await way.opened()).is_turned_away()
    await eventually(lambda: way.agent.run.stop_reason, "the older attempt's run is stopped")
    way.view.jobs[7] = replace(way.view.jobs[7], state="RUNNING")
    await way.opened(restart_count=1)
    await eventually(lambda: len(way.agent.runs) == 2, "the next attempt's run arrives")


async def test_a_proxy_that_dies_while_the_agent_is_away_has_its_run_stopped_later(way: Road) -> None:
    proxy = await way.running()
    await way.agent.stop()
    proxy.close()
    await asyncio.sleep(0.3)
    await way.agent.start()
    await eventually(lambda: way.agent.run.stop_reason, "the run is stopped")


async def test_an_agent_that_restarts_in_mid_output_costs_not_one_byte(way: Road) -> None:
    proxy = await way.running()
    run, expected = way.agent.run, os.urandom(8_000_000)
    taking = asyncio.create_task(proxy.end())
    await run.write(expected[:5_000_000])
    await eventually(lambda: proxy.output[1], "some output has come")
    await way.agent.stop()
    await way.agent.start()
    await run.write(expected[5_000_000:])
    await run.end("COMPLETED", exit_code=0)
    assert await taking == {"exit_code": 0}
    assert proxy.output[1] == expected
    assert run.attaches >= 2
    assert len(way.agent.runs) == 1


@pytest.mark.parametrize("status", ["CANCELLED", "ABORTED", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"])
async def test_however_an_attach_ends_the_next_one_goes_on_and_signals_still_arrive(
    tmp_path: Path, status: str
) -> None:
    async with road(tmp_path) as way:
        way.agent.cut = grpc.StatusCode[status]
        proxy = await way.running(has_stdin=True)
        await eventually(lambda: way.agent.run.attaches == 2, "the run is followed again")
        await proxy.until(FrameType.STDIN_FROM)
        await proxy.stdin(0, b"input")
        await eventually(lambda: way.agent.run.stdin == b"input", "standard input arrives")
        await proxy.signal(1, signal.SIGUSR1)
        await proxy.until(FrameType.SIGNAL_ACK)
        await way.agent.run.end("COMPLETED", exit_code=0)
        assert await proxy.end() == {"exit_code": 0}


async def _send_zeros(proxy: Proxy, size: int) -> None:
    for offset in range(0, size, 250_000):
        await proxy.stdin(offset, bytes(250_000))


async def test_a_run_that_ends_while_input_is_stuck_leaves_the_proxy_heard_to_its_end(tmp_path: Path) -> None:
    async with road(tmp_path) as way:
        way.agent.is_deaf = True
        proxy = await way.running(has_stdin=True)
        await proxy.until(FrameType.STDIN_FROM)
        stuck = asyncio.create_task(_send_zeros(proxy, 30_000_000))
        await asyncio.sleep(0.3)
        await way.agent.run.end("COMPLETED", exit_code=0)
        await proxy.until(FrameType.END)
        await stuck
        leaving = asyncio.create_task(proxy.is_turned_away())
        await asyncio.wait([leaving], timeout=0.5)
        assert not leaving.done(), "the relay left before the proxy did"
        leaving.cancel()


async def test_a_relay_that_restarts_stops_nothing_and_its_successor_goes_on(way: Road) -> None:
    proxy = await way.running()
    await way.agent.run.write(b"before ")
    await proxy.until(FrameType.OUTPUT)
    await way.restart_relay()
    assert await proxy.is_turned_away()
    assert way.agent.run.stop_reason is None
    successor = await way.opened(stdout=len(b"before "))
    successor.output[1] += b"before "
    await way.agent.run.write(b"after")
    await way.agent.run.end("COMPLETED", exit_code=0)
    assert await successor.end() == {"exit_code": 0}
    assert successor.output[1] == b"before after"
    assert len(way.agent.runs) == 1


async def test_a_second_connection_of_the_same_attempt_takes_over_and_the_run_goes_on(way: Road) -> None:
    first = await way.running()
    second = await way.opened()
    assert await first.is_turned_away()
    await way.agent.run.end("COMPLETED", exit_code=0)
    assert await second.end() == {"exit_code": 0}
    assert way.agent.run.stop_reason is None


async def test_a_slow_file_holds_the_agent_back_and_loses_nothing(way: Road) -> None:
    proxy = await way.running()
    data = os.urandom(64 * 1024 * 1024)
    await way.agent.run.write(data)
    await way.agent.run.end("COMPLETED", exit_code=0)
    await asyncio.sleep(0.5)
    assert way.relay.done() is False
    assert await proxy.end() == {"exit_code": 0}
    assert proxy.output[1] == data


# The site does not take it


@pytest.mark.parametrize("status", ["PERMISSION_DENIED", "FAILED_PRECONDITION", "INVALID_ARGUMENT"])
async def test_a_job_that_the_site_refuses_goes_home(way: Road, status: str) -> None:
    way.agent.refusal = grpc.StatusCode[status]
    proxy = await way.opened()
    await eventually(lambda: way.view.jobs[7].is_pending, "the job is requeued")
    await eventually(lambda: "refused_by" in way.view.jobs[7].admin_comment, "the job is marked")
    job = way.view.jobs[7]
    assert (job.partitions, job.restart_count) == (("batch",), 1)
    assert '"refused_by":["site-a"]' in job.admin_comment
    await proxy.signal(1, signal.SIGTERM)
    assert await proxy.end() == {"signal": 15}
    await eventually(lambda: way.view.jobs[7].reason == "None", "the job may start at home at once")


async def test_a_job_with_an_option_that_only_shows_now_goes_home_unsubmitted(tmp_path: Path) -> None:
    async with road(tmp_path, diverted_job(hidden_options=("deadline",))) as way:
        await way.opened()
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "the job is home")
        assert way.agent.runs == {}


async def test_a_job_that_must_not_be_requeued_goes_home_all_the_same_and_stays_so(tmp_path: Path) -> None:
    async with road(tmp_path, diverted_job(can_requeue=False)) as way:
        way.agent.refusal = grpc.StatusCode.PERMISSION_DENIED
        proxy = await way.opened()
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "the job is home")
        proxy.close()
        await eventually(lambda: way.view.jobs[7].reason == "None", "the job may start at home at once")
        assert not way.view.jobs[7].can_requeue


async def test_a_refused_job_without_a_home_fails_with_the_reason(tmp_path: Path) -> None:
    async with road(tmp_path, diverted_job(trail=None, admin_comment="")) as way:
        way.agent.refusal = grpc.StatusCode.PERMISSION_DENIED
        proxy = await way.opened()
        ended = await proxy.end()
        assert ended == {"exit_code": 1, "message": "site-a does not take the job: not here"}


async def test_a_job_whose_site_stays_unreachable_goes_home_after_the_grace(tmp_path: Path) -> None:
    async with road(tmp_path, is_agent_up=False, grace_s=0.5) as way:
        await way.opened()
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "the job is home")


async def test_a_job_that_meets_its_first_relay_late_goes_home_all_the_same(tmp_path: Path) -> None:
    """It began while no relay was there, or moments after one had come: no earlier one has submitted it."""
    earlier = diverted_job(start_time_s=int(time.time()) - 600)
    async with road(tmp_path, earlier, is_agent_up=False, grace_s=0.2) as way:
        await way.opened(was_handed_over=False)
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "the job is home")


async def test_a_wrong_certificate_is_like_an_unreachable_site(tmp_path: Path) -> None:
    stranger = Certificates(tmp_path / "other").files("cluster", "rig")
    async with road(tmp_path, grace_s=0.5, certificate=stranger) as way:
        await way.opened()
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "the job is home", 20)
        assert way.agent.runs == {}
        assert not way.site.view(time.monotonic()).is_reachable


async def test_an_agent_that_comes_back_within_the_grace_gets_the_job(tmp_path: Path) -> None:
    async with road(tmp_path, is_agent_up=False) as way:
        proxy = await way.opened()
        await asyncio.sleep(0.5)
        await way.agent.start()
        await eventually(lambda: way.agent.runs, "the run arrives", 20)
        await way.agent.run.end("COMPLETED", exit_code=0)
        assert await proxy.end() == {"exit_code": 0}


async def test_a_full_site_is_asked_again(way: Road) -> None:
    way.agent.refusal = grpc.StatusCode.RESOURCE_EXHAUSTED
    await way.opened()
    await asyncio.sleep(0.5)
    way.agent.refusal = None
    await eventually(lambda: way.agent.runs, "the run arrives")


@pytest.mark.parametrize("hello", [{"was_handed_over": True}, {}])
async def test_a_job_that_an_earlier_relay_may_have_submitted_never_goes_home(
    tmp_path: Path, hello: dict[str, Any]
) -> None:
    """A proxy of an older release does not say whether it has met one."""
    earlier = diverted_job(start_time_s=int(time.time()) - 600)
    async with road(tmp_path, earlier, is_agent_up=False, grace_s=0.2) as way:
        await way.opened(**hello)
        await asyncio.sleep(1.5)
        assert way.view.jobs[7].state == "RUNNING"


@pytest.mark.parametrize("how", ["malformed frame", "second connection"])
async def test_a_run_that_its_session_has_left_is_not_sent_home_from_a_dead_site(tmp_path: Path, how: str) -> None:
    async with road(tmp_path, grace_s=0.2) as way:
        first = await way.running()
        await way.agent.stop()
        if how == "malformed frame":
            await first.send(FrameType.ACK, b"")
            assert await first.is_turned_away()
        second = await way.opened(was_handed_over=True)
        await asyncio.sleep(1.5)
        assert way.view.jobs[7].state == "RUNNING"
        await way.agent.start()
        await way.agent.run.end("COMPLETED", exit_code=0)
        assert await second.end() == {"exit_code": 0}
        assert len(way.agent.runs) == 1


async def test_a_job_cancelled_before_the_site_was_reached_ends_at_once(tmp_path: Path) -> None:
    async with road(tmp_path, is_agent_up=False) as way:
        proxy = await way.opened()
        await proxy.signal(1, signal.SIGTERM)
        assert await proxy.end() == {"signal": 15}


# The site loses it


@pytest.mark.parametrize("outcome", ["NODE_FAIL", "LOST"])
async def test_a_lost_run_has_its_job_requeued_to_its_own_partition(way: Road, outcome: str) -> None:
    proxy = await way.running()
    await way.agent.run.end(outcome, reason="power")
    await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "the job is requeued")
    await eventually(lambda: '"refused_by":["site-a"]' in way.view.jobs[7].admin_comment, "the mark")
    assert way.view.jobs[7].reason == "BeginTime"
    await proxy.signal(1, signal.SIGTERM)
    assert await proxy.end() == {"signal": 15}
    await eventually(lambda: way.agent.run.is_released, "the run is released")


async def test_a_lost_run_of_a_job_without_another_home_is_requeued_where_it_was(tmp_path: Path) -> None:
    async with road(tmp_path, diverted_job(trail=None, admin_comment="")) as way:
        await way.running()
        await way.agent.run.end("LOST", reason="amnesia")
        await eventually(lambda: way.view.jobs[7].is_pending, "the job is requeued")
        assert way.view.jobs[7].partitions == ("overspill",)


async def test_a_lost_run_of_a_job_that_must_not_be_requeued_fails_it_with_the_reason(tmp_path: Path) -> None:
    async with road(tmp_path, diverted_job(can_requeue=False)) as way:
        proxy = await way.running()
        await way.agent.run.end("NODE_FAIL", reason="power")
        assert await proxy.end() == {
            "exit_code": 1,
            "message": "site-a: the machine that ran the job failed: power",
        }


async def test_a_cancelled_job_is_not_brought_back_to_life_by_a_loss(way: Road) -> None:
    proxy = await way.running()
    await proxy.signal(1, signal.SIGTERM)
    await proxy.until(FrameType.SIGNAL_ACK)
    way.view.jobs[7] = replace(way.view.jobs[7], state="COMPLETING")
    await way.agent.run.end("NODE_FAIL")
    assert await proxy.end() == {"signal": 15}
    assert way.view.jobs[7].restart_count == 0


async def test_a_signal_that_the_script_survived_long_ago_does_not_keep_a_lost_job_from_being_requeued(
    way: Road,
) -> None:
    proxy = await way.running()
    await proxy.signal(1, signal.SIGINT)
    await proxy.until(FrameType.SIGNAL_ACK)
    await way.agent.run.end("NODE_FAIL")
    await eventually(lambda: way.view.jobs[7].is_pending, "the job is requeued")


async def test_a_job_that_is_cancelled_as_it_leaves_stays_cancelled(way: Road) -> None:
    way.view.jobs[7] = replace(way.view.jobs[7], state="COMPLETING")
    way.agent.refusal = grpc.StatusCode.PERMISSION_DENIED
    proxy = await way.opened()
    assert await proxy.end() == {"signal": 15}
    assert (way.view.jobs[7].restart_count, way.view.jobs[7].partitions) == (0, ("overspill",))


async def test_one_task_of_an_array_leaves_alone(tmp_path: Path) -> None:
    leaving = diverted_job(7, array_job_id=7, array_task_id=3)
    others = [diverted_job(number, array_job_id=7, array_task_id=number - 7) for number in (8, 9)]
    others[1] = replace(others[1], state="CANCELLED")
    async with road(tmp_path, leaving, *others) as way:
        way.agent.refusal = grpc.StatusCode.PERMISSION_DENIED
        await way.opened(7)
        await eventually(lambda: way.view.jobs[7].partitions == ("batch",), "the task is home")
        await eventually(lambda: way.view.jobs[7].reason == "None", "the task may start at home at once")
        assert [way.view.jobs[number] for number in (8, 9)] == others


async def test_a_run_that_the_agent_has_forgotten_is_a_lost_one(way: Road) -> None:
    await way.running()
    way.agent.runs.clear()
    await way.agent.stop()
    await way.agent.start()
    await eventually(lambda: way.view.jobs[7].is_pending, "the job is requeued", 20)


# Strangers


@pytest.mark.parametrize(
    "changes",
    [{"user_id": 2001}, {"partitions": ("batch",)}, {"batch_host": "c1"}, {"state": "PENDING"}, {"slurm_job_id": 8}],
)
async def test_a_stranger_gets_its_connection_closed_and_nothing_else(tmp_path: Path, changes: dict[str, Any]) -> None:
    async with road(tmp_path, diverted_job(**changes)) as way:
        proxy = await way.opened()
        assert await proxy.is_turned_away()
        assert way.agent.runs == {}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        HEADER.pack(2**31, FrameType.HELLO),
        HEADER.pack(70_000, FrameType.HELLO),
        HEADER.pack(3, 200),
        encode(FrameType.SCRIPT, b"#!/bin/sh"),
        encode(FrameType.HELLO, b"not json"),
        encode(FrameType.HELLO, b'{"protocol": 2}'),
        encode(FrameType.HELLO, b'{"protocol": 1, "slurm_job_id": -1}'),
    ],
)
async def test_whatever_is_no_opening_is_closed_and_the_relay_lives_on(way: Road, sent: bytes) -> None:
    proxy = await way.proxy()
    proxy.writer.write(sent)
    assert await proxy.is_turned_away()
    await (await way.running()).signal(1, signal.SIGTERM)


@pytest.mark.parametrize(
    "sent",
    [
        encode(FrameType.ACK, b"short"),
        HEADER.pack(60_000_000, FrameType.STDIN),
        HEADER.pack(17, FrameType.ACK),
        HEADER.pack(3, FrameType.SCRIPT),
    ],
)
async def test_a_malformed_frame_in_mid_run_closes_the_connection_and_does_not_stop_the_run(
    way: Road, sent: bytes
) -> None:
    proxy = await way.running()
    proxy.writer.write(sent)
    assert await proxy.is_turned_away()
    successor = await way.opened()
    await way.agent.run.end("COMPLETED", exit_code=0)
    assert await successor.end() == {"exit_code": 0}
    assert way.agent.run.stop_reason is None


async def test_while_slurm_is_silent_a_proxy_is_sent_away_to_call_again(way: Road) -> None:
    await eventually(lambda: way.watch.picture, "a first picture")
    way.view.is_answering = False
    assert await (await way.opened()).is_turned_away()
    way.view.is_answering = True
    await way.running()


async def test_signals_that_nobody_takes_are_not_heaped_up(tmp_path: Path) -> None:
    async with road(tmp_path, is_agent_up=False) as way:
        proxy = await way.opened()
        for sequence in range(1, 300):
            await proxy.signal(sequence, signal.SIGUSR1)
        assert await proxy.is_turned_away()


async def test_an_opening_that_no_message_to_the_agent_could_hold_is_not_read(way: Road) -> None:
    proxy = await way.opened(script=bytes(59_000_000))
    await eventually(lambda: way.agent.runs, "a large one is taken")
    proxy.close()
    other = await way.proxy()
    reading = asyncio.create_task(other.is_turned_away())
    with contextlib.suppress(ConnectionError):
        await other.open(script=bytes(63_000_000))
    assert await reading


# The net under it


async def test_a_run_whose_job_is_gone_is_stopped_and_then_released(way: Road) -> None:
    await way.running()
    await way.stop_relay()
    for _ in range(2):
        await way.reconciler.look_at(way.site)
    assert way.agent.run.stop_reason is None
    way.view.jobs[7] = replace(way.view.jobs[7], restart_count=1, state="PENDING")
    await way.reconciler.look_at(way.site)
    assert way.agent.run.stop_reason is None
    await way.reconciler.look_at(way.site)
    assert way.agent.run.stop_reason == "Slurm no longer has this attempt of the job"
    await way.reconciler.look_at(way.site)
    assert way.agent.run.is_released


async def test_while_slurm_is_silent_no_run_is_stopped(way: Road) -> None:
    await way.running()
    await way.stop_relay()
    way.view.jobs.clear()
    await way.reconciler.look_at(way.site)
    way.view.is_answering = False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await way.reconciler.look_at(way.site)
    assert way.agent.run.stop_reason is None
