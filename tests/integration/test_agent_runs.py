"""What a relay gets from a real agent whose local backend runs real scripts."""

import asyncio
import hashlib
import json
import subprocess

import grpc
import grpc.aio
import pytest

from overspill.v1 import agent_pb2 as pb
from tests.integration.agent_relay import CWD, SCRIPT_PATH, Followed, Relay, spec_of, until_output
from tests.integration.agent_site import DEADLINE_S, SHARED, Site


async def test_a_script_comes_back_with_its_output_exit_code_and_usage(relay: Relay) -> None:
    followed = await relay.run(b"#!/bin/sh\necho out\necho err >&2\nexit 7\n")
    assert followed.stdout == b"out\n"
    assert followed.stderr == b"err\n"
    assert followed.ended is not None
    assert (followed.ended.outcome, followed.ended.exit_code) == (pb.RUN_OUTCOME_COMPLETED, 7)
    assert 0 < followed.ended.started_at_ms <= followed.ended.ended_at_ms
    assert followed.ended.usage.max_rss_kib > 0
    assert followed.ended.reason == ""


async def test_a_script_that_dies_of_a_signal_is_told_as_such(relay: Relay) -> None:
    ended = (await relay.run(b"#!/bin/sh\nkill -SEGV $$\n")).ended
    assert ended is not None
    assert (ended.outcome, ended.signal) == (pb.RUN_OUTCOME_SIGNALED, 11)


async def test_the_script_finds_what_it_would_find_at_home(relay: Relay) -> None:
    script = b"""#!/usr/bin/env bash
printf '%s\\n' "$0" "$PWD" "$(umask)" "$1" "$ODD" "$HOME" "$(id -un)" "$(id -Gn)" "$(cat "$0" | head -c 3)"
"""
    followed = await relay.run(
        script,
        argv=[SCRIPT_PATH, b"an argument"],
        environment=[b"PATH=/usr/bin:/bin", b"HOME=/home/alice", b"ODD=two\nlines"],
        umask=0o027,
    )
    lines = [SCRIPT_PATH, CWD, b"0027", b"an argument", b"two\nlines", b"/home/alice", b"alice", b"alice hpc", b"#!/"]
    assert followed.stdout == b"\n".join(lines) + b"\n"


async def test_joined_output_keeps_its_order(relay: Relay) -> None:
    followed = await relay.run(b"#!/bin/sh\nfor i in 1 2 3; do echo o$i; echo e$i >&2; done\n", is_output_joined=True)
    assert followed.stdout == b"o1\ne1\no2\ne2\no3\ne3\n"
    assert followed.stderr == b""


async def test_standard_input_is_complete_before_the_script_starts(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\nsha256sum\n", has_stdin=True)
    followed = await relay.follow(run_id, stdin=b"x" * 1_000_000)
    assert followed.stdout == hashlib.sha256(b"x" * 1_000_000).hexdigest().encode() + b"  -\n"
    assert followed.states[0] == pb.RUN_STATE_STAGING_IN
    assert followed.stdin_offsets[-1] == 1_000_000


async def test_a_hundred_megabytes_arrive_whole(relay: Relay) -> None:
    followed = await relay.run(b"#!/bin/sh\nyes 0123456789abcde | head -c 100000000\n")
    is_whole = followed.stdout == b"0123456789abcde\n" * (100_000_000 // 16)
    assert is_whole


async def test_output_is_seen_while_the_script_runs(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\necho ready\nread -r line < /dev/null\nsleep 60\n")
    followed = Followed()
    following = asyncio.create_task(relay.follow(run_id, followed))
    await until_output(followed, b"ready\n")
    assert followed.ended is None
    await relay.stub.Stop(pb.StopRequest(run_id=run_id, reason="enough"))
    await following
    assert followed.ended is not None
    assert (followed.ended.outcome, followed.ended.reason) == (pb.RUN_OUTCOME_CANCELLED, "enough")


async def test_a_stop_reaches_even_what_left_the_scripts_session(relay: Relay, site: Site) -> None:
    loop = f"while :; do date +%s%N > {SHARED}/alive; echo ready; sleep 0.02; done"
    script = f"#!/bin/sh\nsetsid sh -c '{loop}' &\nwait\n"
    run_id = await relay.submit(script.encode())
    followed = Followed()
    following = asyncio.create_task(relay.follow(run_id, followed))
    await until_output(followed, b"ready\n")
    await relay.stub.Stop(pb.StopRequest(run_id=run_id))
    await following
    last = (site.shared / "alive").read_bytes()
    await asyncio.sleep(0.2)
    assert (site.shared / "alive").read_bytes() == last


async def test_signals_reach_the_shell_or_everything_in_order_and_once(relay: Relay) -> None:
    script = b"""#!/bin/bash
trap 'echo usr1' USR1
trap 'echo term; exit 9' TERM
bash -c 'trap "echo child" USR2; echo ready; while :; do sleep 0.02; done' &
while :; do sleep 0.02; done
"""
    run_id = await relay.submit(script)
    followed = Followed()
    following = asyncio.create_task(relay.follow(run_id, followed))
    await until_output(followed, b"ready\n")

    async def signal(seq: int, number: int, scope: pb.SignalScope.ValueType) -> None:
        request = pb.SignalRequest(run_id=run_id, signal=number, scope=scope, signal_seq=seq)
        await relay.stub.Signal(request)
        await relay.stub.Signal(request)

    await signal(1, 10, pb.SIGNAL_SCOPE_SHELL)
    await until_output(followed, b"usr1\n")
    await signal(2, 15, pb.SIGNAL_SCOPE_SHELL)
    await following
    assert followed.stdout == b"ready\nusr1\nterm\n"
    assert followed.ended is not None
    assert followed.ended.exit_code == 9


async def test_a_suspended_run_is_told_so_and_stands_still(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/bash\necho ready\nfor i in {1..20}; do sleep 0.02; done\necho done\n")
    followed = Followed()
    following = asyncio.create_task(relay.follow(run_id, followed))
    await until_output(followed, b"ready\n")
    tree = pb.SIGNAL_SCOPE_TREE
    await relay.stub.Signal(pb.SignalRequest(run_id=run_id, signal=19, scope=tree, signal_seq=1))
    async with asyncio.timeout(DEADLINE_S):
        while pb.RUN_STATE_SUSPENDED not in followed.states:
            await followed.next_response()
    await asyncio.sleep(1)
    assert b"done" not in followed.stdout
    await relay.stub.Signal(pb.SignalRequest(run_id=run_id, signal=18, scope=tree, signal_seq=2))
    await following
    assert followed.stdout == b"ready\ndone\n"
    assert followed.states[-2:] == [pb.RUN_STATE_SUSPENDED, pb.RUN_STATE_RUNNING]


@pytest.mark.parametrize("is_stopped", [True, False], ids=["Stop", "SIGTERM"])
async def test_a_run_that_is_cancelled_before_its_script_starts_never_runs(
    relay: Relay,
    site: Site,
    is_stopped: bool,  # noqa: FBT001
) -> None:
    run_id = await relay.submit(f"#!/bin/sh\ntouch {SHARED}/ran\n".encode(), has_stdin=True)
    if is_stopped:
        await relay.stub.Stop(pb.StopRequest(run_id=run_id, reason="requeued"))
    else:
        request = pb.SignalRequest(run_id=run_id, signal=15, scope=pb.SIGNAL_SCOPE_TREE, signal_seq=1)
        await relay.stub.Signal(request)
    ended = (await relay.follow(run_id)).ended
    assert ended is not None
    assert ended.outcome == pb.RUN_OUTCOME_CANCELLED
    assert ended.started_at_ms == 0
    assert not (site.shared / "ran").exists()


async def test_a_submit_that_is_repeated_is_answered_with_the_first_run_forever(relay: Relay, site: Site) -> None:
    script = f"#!/bin/sh\necho once >> {SHARED}/repeated\n".encode()
    request = relay.request(spec_of(script))
    answers = await asyncio.gather(*(relay.stub.Submit(request) for _ in range(10)))
    assert len({answer.run_id for answer in answers}) == 1
    assert [answer.is_new for answer in answers].count(True) == 1
    run_id = answers[0].run_id
    await relay.follow(run_id)
    await relay.stub.Release(pb.ReleaseRequest(run_id=run_id))
    again = await relay.stub.Submit(request)
    assert (again.run_id, again.is_new, again.state) == (run_id, False, pb.RUN_STATE_ENDED)
    assert (site.shared / "repeated").read_text() == "once\n"


async def test_a_released_run_keeps_its_outcome_but_not_its_bytes(relay: Relay, site: Site) -> None:
    run_id = await relay.submit(b"#!/bin/sh\necho hello\nexit 4\n")
    followed = await relay.follow(run_id)
    assert (site.state / "spool" / run_id).exists()
    await relay.stub.Release(pb.ReleaseRequest(run_id=run_id))
    await relay.stub.Release(pb.ReleaseRequest(run_id=run_id))
    assert not (site.state / "spool" / run_id).exists()
    assert run_id not in [run.run_id for run in (await relay.stub.ListRuns(pb.ListRunsRequest())).runs]
    followed.ended = None
    assert (await relay.follow(run_id, followed)).ended is not None
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await relay.follow(run_id)
    assert error.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_a_second_attach_takes_the_run_over(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\necho ready; sleep 60\n")
    first, second = Followed(), Followed()
    following = asyncio.create_task(relay.follow(run_id, first))
    await until_output(first, b"ready\n")
    taking_over = asyncio.create_task(relay.follow(run_id, second))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await following
    assert error.value.code() is grpc.StatusCode.ABORTED
    await relay.stub.Stop(pb.StopRequest(run_id=run_id))
    await taking_over
    assert second.stdout == b"ready\n"


async def test_an_offset_beyond_the_end_is_out_of_range(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\necho hello\n")
    await relay.follow(run_id)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await relay.follow(run_id, Followed(stdout=bytearray(7)))
    assert error.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_capacity_counts_what_was_promised(own_relay: Relay) -> None:
    before = await own_relay.stub.Capacity(pb.CapacityRequest(slurm_cluster="rig"))
    run_id = await own_relay.submit(b"#!/bin/sh\n", has_stdin=True, resources=pb.Resources(cpus=3, memory_mib=1000))
    during = await own_relay.stub.Capacity(pb.CapacityRequest(slurm_cluster="rig"))
    assert during.total == pb.Resources(cpus=8, memory_mib=16384)
    assert before.free.cpus - during.free.cpus == 3
    assert before.free.memory_mib - during.free.memory_mib == 1000
    await own_relay.stub.Stop(pb.StopRequest(run_id=run_id))
    await own_relay.follow(run_id)
    assert (await own_relay.stub.Capacity(pb.CapacityRequest(slurm_cluster="rig"))).free == before.free


async def test_a_run_that_finds_no_room_waits_for_it(relay: Relay) -> None:
    whole = pb.Resources(cpus=8)
    first = await relay.submit(b"#!/bin/sh\necho ready; sleep 60\n", resources=whole)
    followed = Followed()
    following = asyncio.create_task(relay.follow(first, followed))
    await until_output(followed, b"ready\n")
    second = await relay.submit(b"#!/bin/sh\necho mine\n", resources=whole)
    listed = {run.run_id: run.state for run in (await relay.stub.ListRuns(pb.ListRunsRequest())).runs}
    assert listed[second] == pb.RUN_STATE_ACCEPTED
    await relay.stub.Stop(pb.StopRequest(run_id=first))
    await following
    assert (await relay.follow(second)).stdout == b"mine\n"


async def test_the_command_line_lists_runs_beside_the_running_agent(relay: Relay, site: Site) -> None:
    run_id = await relay.submit(b"#!/bin/sh\nexit 3\n")
    await relay.follow(run_id)
    listing = await asyncio.create_subprocess_exec(
        *site.command("runs", "--json"),
        stdout=subprocess.PIPE,
    )
    listed, _ = await listing.communicate()
    run = next(run for run in map(json.loads, listed.splitlines()) if run["run_id"] == run_id)
    assert (run["state"], run["ending"]["outcome"], run["ending"]["exit_code"]) == ("ENDED", "COMPLETED", 3)


async def test_nothing_of_the_job_is_in_the_log(relay: Relay, site: Site) -> None:
    await relay.run(b"#!/bin/sh\n: sesame-script\n", environment=[b"TOKEN=sesame-environment"])
    log = site.log_path.read_text()
    assert "sesame" not in log
    assert '"action": "run_state"' in log
