"""What the site's operator does to an agent: drain it, kill what it runs, stop it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from overspill.runner_protocol import KEEPALIVE_S
from overspill.v1 import agent_pb2 as pb
from tests.integration.agent_relay import Followed, Relay, relay_of, spec_of, until_output
from tests.integration.agent_site import CLUSTER, Site, running_site, wait_until

_LONG = b"#!/bin/sh\necho started; sleep 600 & wait\n"


async def _agent(site: Site, *arguments: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run, site.command(*arguments), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def _begun(relay: Relay) -> tuple[str, asyncio.Task[Followed]]:
    """Return a run whose script runs, and what follows it."""
    run_id, followed = await relay.submit(_LONG), Followed()
    following = asyncio.create_task(relay.follow(run_id, followed))
    await until_output(followed, b"started\n")
    return run_id, following


async def test_a_drained_site_takes_no_new_run_keeps_what_runs_and_says_why(own_site: Site, own_relay: Relay) -> None:
    site, relay = own_site, own_relay
    script = b"#!/bin/sh\necho started; while [ ! -e /srv/shared/go ]; do sleep 0.1; done; echo done\n"
    followed = Followed()
    request = relay.request_id()
    run_id = (await relay.stub.Submit(relay.request(spec_of(script), request), timeout=10)).run_id
    following = asyncio.create_task(relay.follow(run_id, followed))
    await until_output(followed, b"started\n")

    await _agent(site, "drain", "new disks\nuntil \x1b[31mnoon")
    capacity = await relay.stub.Capacity(pb.CapacityRequest(slurm_cluster=CLUSTER), timeout=10)
    assert (capacity.takes_no_runs, capacity.free.cpus, capacity.total.cpus) == ("new disks until [31mnoon", 0, 8)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await relay.submit(b"#!/bin/sh\n")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "takes no new runs: new disks until" in (refused.value.details() or "")
    repeated = await relay.stub.Submit(relay.request(spec_of(script), request), timeout=10)
    assert (repeated.run_id, repeated.is_new) == (run_id, False)
    (site.shared / "go").touch()
    assert (await following).stdout == b"started\ndone\n"

    await _agent(site, "resume")
    assert (await relay.run(b"#!/bin/sh\necho again\n")).stdout == b"again\n"
    capacity = await relay.stub.Capacity(pb.CapacityRequest(slurm_cluster=CLUSTER), timeout=10)
    assert (capacity.takes_no_runs, capacity.free.cpus > 0) == ("", True)


async def test_a_drain_outlives_a_restart(own_site: Site) -> None:
    await _agent(own_site, "drain", "later")
    await asyncio.to_thread(own_site.stop)
    await asyncio.to_thread(own_site.start)
    async with relay_of(own_site) as relay:
        with pytest.raises(grpc.aio.AioRpcError, match="takes no new runs: later"):
            await relay.submit(b"#!/bin/sh\n")


async def test_a_killed_run_is_a_node_failure_and_no_other_notices(own_site: Site, own_relay: Relay) -> None:
    meant, followed_meant = await _begun(own_relay)
    other, followed_other = await _begun(own_relay)
    assert await _agent(own_site, "kill", meant) == f"killed {meant}\n"
    ended = (await followed_meant).ended
    assert ended is not None
    assert ended.outcome == pb.RUN_OUTCOME_NODE_FAIL
    listed = [json.loads(line) for line in (await _agent(own_site, "runs", "--json")).splitlines()]
    assert {run["run_id"]: run["state"] for run in listed} == {meant: "ENDED", other: "RUNNING"}
    await own_relay.stub.Stop(pb.StopRequest(run_id=other))
    await followed_other


async def test_everything_can_be_killed_even_after_the_agent_was_stopped(own_site: Site, own_relay: Relay) -> None:
    for _ in range(2):
        _, following = await _begun(own_relay)
        following.cancel()
    # The same view of the files, from a process that outlives the agent.
    keeper = await asyncio.create_subprocess_exec(*own_site.command()[:4], "sleep", "600")
    command = own_site.command("kill", "--all")
    command[3] = str(keeper.pid)
    try:
        wait_until(lambda: _is_in_namespace(keeper.pid, own_site), "the keeper is where the agent is")
        await asyncio.to_thread(own_site.stop)
        assert own_site.runners()
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.count("killed ") == 2
        await asyncio.to_thread(wait_until, lambda: not own_site.runners(), "the runs are gone")
    finally:
        keeper.kill()
        await keeper.wait()


async def test_runs_of_an_agent_that_is_stopped_and_stays_away_end_by_themselves(tmp_path: Path) -> None:
    lease_s = 2 * KEEPALIVE_S + 1
    with running_site(tmp_path, lease_s=lease_s) as site:
        async with relay_of(site) as relay:
            await relay.submit(b"#!/bin/sh\nwhile :; do touch /srv/shared/alive; sleep 0.2; done\n")
            alive = site.shared / "alive"
            await asyncio.to_thread(wait_until, alive.exists, "the script runs")
        await asyncio.to_thread(site.stop)
        stopped_at = time.time()
        still_s = 5
        is_still = lambda: time.time() - alive.stat().st_mtime > still_s  # noqa: E731
        await asyncio.to_thread(wait_until, is_still, "the script has stopped", lease_s + 30.0)
        assert alive.stat().st_mtime - stopped_at > lease_s / 2


async def test_an_agent_that_has_lost_its_store_kills_nothing_until_its_operator_says_so(
    own_site: Site, own_relay: Relay
) -> None:
    run_id, following = await _begun(own_relay)
    following.cancel()
    await asyncio.to_thread(own_site.stop)
    for file in own_site.state.glob("agent.db*"):
        file.unlink()
    await asyncio.to_thread(own_site.start)
    told = lambda: b'"leftovers_kept"' in own_site.log_path.read_bytes()  # noqa: E731
    await asyncio.to_thread(wait_until, told, "the agent tells of the run that it does not know")
    assert own_site.runners()
    assert await _agent(own_site, "kill", "--unknown") == f"forgot {run_id}\n"
    assert not own_site.runners()
    assert await _agent(own_site, "kill", "--unknown") == ""


@pytest.mark.parametrize("arguments", [(), ("--all", "x"), ("--unknown", "x"), ("0123",)])
async def test_a_kill_that_names_nothing_that_is_here_is_refused(site: Site, arguments: tuple[str, ...]) -> None:
    done = await asyncio.to_thread(
        subprocess.run, site.command("kill", *arguments), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "name runs, or say --all" in done.stderr or "no such run is here: 0123" in done.stderr


def _is_in_namespace(pid: int, site: Site) -> bool:
    assert site.process is not None
    return _namespace(pid) == _namespace(site.process.pid)


def _namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/mnt").readlink())
