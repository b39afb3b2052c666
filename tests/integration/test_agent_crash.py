"""The agent dies at any moment, by SIGKILL and for real: no byte is lost or doubled, nothing starts twice."""

import asyncio
import io
import itertools
import os
import signal
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from overspill.v1 import agent_pb2 as pb
from tests.integration.agent_relay import Followed, Relay, relay_of, spec_of, until_output
from tests.integration.agent_site import DEADLINE_S, SHARED, Site, free_port, name_of, running_site, wait_until

COUNTING = b"#!/bin/bash\nfor i in $(seq 1 30000); do echo line $i; ((i % 150)) || sleep 0.01; done\nexit 5\n"
COUNTED = b"".join(b"line %d\n" % i for i in range(1, 30001))


async def test_output_is_whole_though_the_agent_is_killed_in_mid_stream(own_site: Site, own_relay: Relay) -> None:
    followed = Followed()
    run_id = await own_relay.submit(COUNTING)
    following = asyncio.create_task(own_relay.follow_through(run_id, followed, 60))
    for pause_s in (0.15, 0.6, 0.05, 0.4):
        await asyncio.sleep(pause_s)
        own_site.kill()
        await asyncio.to_thread(own_site.start)
    await following
    assert followed.stdout == COUNTED
    assert followed.ended is not None
    assert (followed.ended.outcome, followed.ended.exit_code) == (pb.RUN_OUTCOME_COMPLETED, 5)


async def test_nothing_starts_twice_whenever_between_submit_and_start_the_agent_is_killed(
    own_site: Site, own_relay: Relay
) -> None:
    for round_number in range(12):
        name = f"round{round_number}"
        script = f"#!/bin/sh\necho started >> {SHARED}/{name}\necho {name}\n".encode()
        request = own_relay.request(spec_of(script))
        run_id = (await own_relay.stub.Submit(request, wait_for_ready=True, timeout=DEADLINE_S)).run_id
        await asyncio.sleep(round_number * 0.004)
        own_site.kill()
        await asyncio.to_thread(own_site.start)
        again = await own_relay.stub.Submit(request, wait_for_ready=True, timeout=DEADLINE_S)
        assert (again.run_id, again.is_new) == (run_id, False)
        followed = await own_relay.follow_through(run_id, Followed())
        assert followed.ended is not None
        assert followed.ended.outcome == pb.RUN_OUTCOME_COMPLETED, followed.ended
        assert followed.stdout == f"{name}\n".encode()
        assert (own_site.shared / name).read_text() == "started\n"


async def test_a_script_that_ends_while_there_is_no_agent_is_told_by_the_next(own_site: Site, own_relay: Relay) -> None:
    run_id = await own_relay.submit(
        f"#!/bin/sh\necho before\ntouch {SHARED}/up\nsleep 0.5\necho after\nexit 6\n".encode()
    )
    await asyncio.to_thread(wait_until, (own_site.shared / "up").exists, "the script runs")
    own_site.kill()
    await asyncio.sleep(1.5)
    await asyncio.to_thread(own_site.start)
    followed = await own_relay.follow_through(run_id, Followed())
    assert followed.stdout == b"before\nafter\n"
    assert followed.ended is not None
    assert followed.ended.exit_code == 6


async def test_sigterm_ends_the_agent_and_no_run(own_site: Site, own_relay: Relay) -> None:
    waiting = f"echo before\ntouch {SHARED}/up\nuntil [ -e {SHARED}/go ]; do sleep 0.05; done\necho after\n"
    run_id = await own_relay.submit(f"#!/bin/sh\n{waiting}".encode())
    following = asyncio.create_task(own_relay.follow_through(run_id, Followed(), 60))
    await asyncio.to_thread(wait_until, (own_site.shared / "up").exists, "the script runs")
    await asyncio.to_thread(own_site.stop)
    assert b'"agent_stopped"' in own_site.log_path.read_bytes()
    assert own_site.runners()
    await asyncio.to_thread(own_site.start)
    (own_site.shared / "go").touch()
    assert (await following).stdout == b"before\nafter\n"


async def test_a_stop_that_was_asked_for_survives_the_agent(own_site: Site, own_relay: Relay) -> None:
    run_id = await own_relay.submit(f"#!/bin/sh\ntouch {SHARED}/up\nsleep 60\n".encode())
    await asyncio.to_thread(wait_until, (own_site.shared / "up").exists, "the script runs")
    await own_relay.stub.Stop(pb.StopRequest(run_id=run_id, reason="requeued"))
    own_site.kill()
    await asyncio.to_thread(own_site.start)
    ended = (await own_relay.follow_through(run_id, Followed())).ended
    assert ended is not None
    assert (ended.outcome, ended.reason) == (pb.RUN_OUTCOME_CANCELLED, "requeued")
    await asyncio.to_thread(wait_until, lambda: not own_site.runners(), "the run is gone")


async def test_signals_that_were_accepted_survive_the_agent_and_come_once(own_site: Site, own_relay: Relay) -> None:
    script = (
        f"#!/bin/bash\ntrap 'echo usr1' USR1\ntrap 'exit 9' USR2\ntouch {SHARED}/up\nwhile :; do sleep 0.02; done\n"
    )
    run_id = await own_relay.submit(script.encode())
    await asyncio.to_thread(wait_until, (own_site.shared / "up").exists, "the script runs")
    for seq, number in ((1, 10), (2, 12)):
        request = pb.SignalRequest(run_id=run_id, signal=number, scope=pb.SIGNAL_SCOPE_SHELL, signal_seq=seq)
        await own_relay.stub.Signal(request, wait_for_ready=True, timeout=DEADLINE_S)
        own_site.kill()
        await asyncio.to_thread(own_site.start)
    followed = await own_relay.follow_through(run_id, Followed())
    assert followed.stdout == b"usr1\n"
    assert followed.ended is not None
    assert followed.ended.exit_code == 9


async def test_a_runner_that_dies_without_the_agent_is_a_node_failure(own_site: Site, own_relay: Relay) -> None:
    run_id = await own_relay.submit(f"#!/bin/sh\necho hello\ntouch {SHARED}/up\nsleep 60\n".encode())
    followed = Followed()
    following = asyncio.create_task(own_relay.follow_through(run_id, followed))
    await until_output(followed, b"hello\n")
    own_site.kill()
    own_site.kill_runners()
    await asyncio.to_thread(own_site.start)
    await following
    assert followed.ended is not None
    assert followed.ended.outcome == pb.RUN_OUTCOME_NODE_FAIL
    assert "gone" in followed.ended.reason
    assert followed.stdout == b"hello\n"


async def test_a_killed_launcher_does_not_make_a_living_run_look_dead(own_site: Site, own_relay: Relay) -> None:
    script = f"#!/bin/sh\ntouch {SHARED}/up\nwhile [ ! -e {SHARED}/go ]; do sleep 0.05; done\necho whole\n"
    run_id = await own_relay.submit(script.encode())
    await asyncio.to_thread(wait_until, (own_site.shared / "up").exists, "the script runs")
    [monitor] = [pid for pid in own_site.runners() if name_of(pid) == "bwrap"]
    os.kill(monitor, signal.SIGKILL)
    await asyncio.sleep(1.5)
    (own_site.shared / "go").touch()
    followed = await own_relay.follow(run_id)
    assert followed.stdout == b"whole\n"


async def test_a_second_agent_on_the_same_state_is_refused(own_site: Site) -> None:
    second = replace(own_site, grpc_port=free_port(), runner_port=free_port(), process=None)
    with pytest.raises(AssertionError, match="another agent has"):
        second.start()
    second.stop()


async def test_a_full_disk_refuses_new_runs_and_keeps_the_running_ones(tmp_path: Path) -> None:
    with running_site(tmp_path, state_size="32m") as site:
        async with relay_of(site) as relay:
            first = await relay.submit(b"#!/bin/sh\nhead -c 14000000 /dev/zero\n")
            await relay.follow(first)
            second = await relay.submit(b"#!/bin/sh\nhead -c 18000000 /dev/zero\necho end >&2\n")
            followed = Followed()
            following = asyncio.create_task(relay.follow_through(second, followed))
            await asyncio.sleep(1.5)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await relay.submit(b"#!/bin/sh\n" + b"#" * 8_000_000)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert not following.done()
            await relay.stub.Release(pb.ReleaseRequest(run_id=first))
            await following
            assert len(followed.stdout) == 18_000_000
            assert followed.stderr == b"end\n"


async def test_a_run_prints_more_than_the_disk_holds_while_its_output_is_acknowledged(tmp_path: Path) -> None:
    with running_site(tmp_path, state_size="32m") as site:
        async with relay_of(site) as relay:
            run_id = await relay.submit(b"#!/bin/sh\nyes 0123456789abcde | head -c 100000000\nexit 4\n")
            async with asyncio.timeout(60):
                followed = await relay.follow_acknowledging(run_id, Followed())
            assert followed.ended is not None
            assert followed.ended.exit_code == 4
            assert len(followed.stdout) == 100_000_000
            assert followed.stdout.replace(b"0123456789abcde\n", b"") == b""


async def test_what_was_freed_stays_out_of_range_and_the_rest_is_there_after_a_crash(
    own_site: Site, own_relay: Relay
) -> None:
    script = f"#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\ntouch {SHARED}/printed\nsleep 60\n"
    run_id = await own_relay.submit(script.encode())
    followed = Followed()
    following = asyncio.create_task(own_relay.follow_acknowledging(run_id, followed))
    freed = own_site.state / "spool" / run_id / "freed"
    await asyncio.to_thread(wait_until, lambda: freed.exists() and freed.stat().st_size > 0, "output is freed")
    await until_output(followed, b"x" * 3000000)
    own_site.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await following
    await asyncio.to_thread(own_site.start)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await own_relay.follow_through(run_id, Followed())
    assert error.value.code() is grpc.StatusCode.OUT_OF_RANGE
    await own_relay.stub.Stop(pb.StopRequest(run_id=run_id))
    followed = Followed(stdout=bytearray(b"x" * 2 * 1024 * 1024))
    await own_relay.follow(run_id, followed)
    assert followed.stdout == b"x" * 3000000


async def test_a_run_is_stopped_though_the_full_disk_cannot_take_note_of_it(tmp_path: Path) -> None:
    with running_site(tmp_path, state_size="32m") as site:
        assert b'"shared_file_system"' in site.log_path.read_bytes()
        async with relay_of(site) as relay:
            run_id = await relay.submit(f"#!/bin/sh\ntouch {SHARED}/up\nsleep 600\n".encode())
            await asyncio.to_thread(wait_until, (site.shared / "up").exists, "the script runs")
            filling = fill_disk(site)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await signal_without_end(relay, run_id)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await relay.stub.Stop(pb.StopRequest(run_id=run_id, reason="enough"))
            await asyncio.to_thread(wait_until, lambda: not site.runners(), "the run is gone")
            filling.unlink()
            ended = (await relay.follow_through(run_id, Followed())).ended
            assert ended is not None


async def signal_without_end(relay: Relay, run_id: str) -> None:
    """Have the agent's store grow until it is refused."""
    for seq in itertools.count(1):
        request = pb.SignalRequest(run_id=run_id, signal=18, scope=pb.SIGNAL_SCOPE_SHELL, signal_seq=seq)
        await relay.stub.Signal(request)


def fill_disk(site: Site) -> Path:
    """Write a file in the agent's state directory until nothing more goes; return it."""
    assert site.process is not None
    path = Path(f"/proc/{site.process.pid}/root{site.state_inside}/filling")
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        write_without_end(file)
    return path


def write_without_end(file: io.FileIO) -> None:
    while True:
        file.write(bytes(4096))
