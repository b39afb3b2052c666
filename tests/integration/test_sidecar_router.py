"""The router on its Unix socket: answers from memory, and never anything worse than "local"."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from overspill.errors import ConfigError
from overspill.v1 import agent_pb2, router_pb2
from overspill.v1.router_pb2_grpc import RouterStub
from overspill.v1.sidecar_pb2 import DecisionRecord
from overspill_sidecar.cluster import Trail
from overspill_sidecar.decision.capacity import Amount
from overspill_sidecar.listening import SocketPath
from overspill_sidecar.probe import RouterHealth
from overspill_sidecar.records.ledger import Ledger, Search
from overspill_sidecar.records.tally import Tally
from overspill_sidecar.router import Router, server_of
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import InMemoryView
from overspill_sidecar.watch import ClusterWatch
from tests.integration.sidecar_agent import Certificates, FakeAgent
from tests.integration.sidecar_road import eventually, eventually_async, in_memory_view, site_config
from tests.unit.sidecar_cluster import CONFIG, full_batch, job, snapshot

LOCAL = router_pb2.DecideResponse.VERDICT_LOCAL
DIVERT = router_pb2.DecideResponse.VERDICT_DIVERT


class Desk:
    """A router with a cluster whose `batch` is full, a site that is idle, and a client."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "router.sock"
        self.agent = FakeAgent(Certificates(directory / "tls"))
        self.view: InMemoryView = in_memory_view(*full_batch())
        self.watch = ClusterWatch(self.view, refresh_s=0.2)
        self.site = Site(
            site_config(self.agent, self.agent.certificates.files("cluster", "rig")), self.watch.slurm_cluster
        )
        self.router = Router(self.watch, [self.site], promise_s=30)
        self._channel = grpc.aio.insecure_channel(f"unix:{self.path}")
        self._stub = RouterStub(self._channel)

    async def decide(self, **fields: Any) -> router_pb2.DecideResponse:
        plain = {"has_script": True, "num_tasks": 1, "time_limit_min": 10, "memory_per_cpu_mib": 100}
        request = router_pb2.DecideRequest(**{**plain, **fields})
        return await self._stub.Decide(request, timeout=30)

    async def empty_cluster(self) -> None:
        self.view.jobs.clear()
        self.view.nodes_by_name = dict(snapshot().nodes)
        await self.refresh()

    async def refresh(self) -> None:
        await self.watch.refresh()
        await self.site.poll("rig")

    async def close(self) -> None:
        await self._channel.close()
        await self.site.close()
        await self.agent.stop()


@pytest.fixture(name="desk")
async def _desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    await desk.agent.start()
    await desk.refresh()
    with SocketPath(desk.path):
        listening = asyncio.Event()
        serving = asyncio.create_task(server_of(desk.router, RouterHealth(desk.watch), desk.path).run(listening))
        await listening.wait()
        yield desk
        serving.cancel()
        await asyncio.wait([serving])
        await desk.close()


async def test_a_job_that_would_wait_is_diverted_and_carries_the_decision(desk: Desk) -> None:
    answer = await desk.decide()
    assert (answer.verdict, answer.partition) == (DIVERT, "batch,overspill")
    assert answer.decision_id in answer.admin_comment
    assert answer.user_message == ""


async def test_what_is_promised_is_not_promised_again_until_its_job_shows(desk: Desk) -> None:
    first = await desk.decide(num_tasks=6)
    assert (await desk.decide(num_tasks=6)).reason == "no_free_slot"
    trail = Trail(first.decision_id, "site-a", "batch")
    desk.view.jobs[50] = job(50, cpus=6, partitions=("batch", "overspill"), trail=trail, reason="Dependency")
    await desk.refresh()
    assert (await desk.decide(num_tasks=6)).verdict == DIVERT


async def test_a_dry_run_promises_and_records_nothing(desk: Desk) -> None:
    for _ in range(3):
        assert (await desk.decide(num_tasks=6, is_dry_run=True)).verdict == DIVERT
    assert not desk.router.records
    assert (await desk.decide(num_tasks=6)).verdict == DIVERT
    assert len(desk.router.records) == 1


async def test_a_burst_into_an_idle_cluster_overflows_within_one_interval(desk: Desk) -> None:
    await desk.empty_cluster()
    verdicts = [(await desk.decide(num_tasks=4)).verdict for _ in range(4)]
    assert verdicts == [LOCAL, LOCAL, DIVERT, DIVERT]
    await desk.refresh()
    assert (await desk.decide(num_tasks=4)).reason == "wait_below_threshold"


async def test_jobs_decided_while_a_snapshot_was_taken_are_not_forgotten(desk: Desk) -> None:
    await desk.empty_cluster()
    before = await desk.view.snapshot()
    assert (await desk.decide(num_tasks=8, memory_per_cpu_mib=1)).verdict == LOCAL
    assert desk.watch.picture is not None
    desk.watch.picture = replace(desk.watch.picture, snapshot=before)
    assert (await desk.decide()).verdict == DIVERT


async def test_new_words_in_slurm_conf_count_from_the_next_refresh(desk: Desk) -> None:
    desk.view.config = replace(CONFIG, parameters=("overspill_mode=off", ""))
    await desk.refresh()
    assert (await desk.decide()).reason == "mode_off"


async def test_a_wrong_word_keeps_the_last_good_policy(desk: Desk) -> None:
    words = CONFIG.parameters[0].replace("overspill_mode=on", "overspill_mode=oops")
    desk.view.config = replace(CONFIG, parameters=(words, ""))
    await desk.refresh()
    assert (await desk.decide()).verdict == DIVERT
    assert [str(problem) for problem in desk.watch.problems] == [
        "overspill_mode=oops: 'oops' is no mode: write off, shadow, on, always"
    ]


async def test_a_queue_that_is_not_seen_any_more_keeps_jobs_local(desk: Desk) -> None:
    desk.view.is_answering = False
    loop = asyncio.create_task(desk.watch.run())
    assert (await desk.decide(is_dry_run=True)).verdict == DIVERT
    await asyncio.sleep(2.1)
    await desk.site.poll("rig")
    assert (await desk.decide()).reason == "queue_unknown"
    desk.view.is_answering = True
    await eventually(lambda: desk.watch.fresh(time.monotonic()), "Slurm is seen again")
    assert (await desk.decide()).verdict == DIVERT
    loop.cancel()


async def test_a_site_that_falls_silent_gets_no_more_jobs_and_gets_them_again_after(desk: Desk) -> None:
    await desk.agent.stop()
    await desk.site.poll("rig")
    assert (await desk.decide(is_dry_run=True)).verdict == DIVERT, "one lost poll is no outage"
    await desk.site.poll("rig")
    assert (await desk.decide()).reason == "site_unreachable"
    await desk.agent.start()
    assert await desk.site.is_connected(10)
    await desk.site.poll("rig")
    assert (await desk.decide()).verdict == DIVERT


async def test_a_sites_images_are_told_to_users_only_if_they_are_words(desk: Desk) -> None:
    desk.agent.images = ("base", "\x1b[2J", "two\nlines", "x" * 1000)
    await desk.site.poll("rig")
    answer = await desk.decide(image="other")
    assert answer.reason == "site_image"
    assert "(there is base)" in answer.user_message
    assert (await desk.decide(image="base")).verdict == DIVERT


async def test_what_a_site_tells_of_its_delay_and_of_our_runs_is_known_and_an_older_site_tells_nothing(
    desk: Desk,
) -> None:
    view = desk.site.view(time.monotonic())
    assert view.capacity is not None
    assert (view.delay_s, view.capacity.used) == (None, None)
    desk.agent.start_delay_ms, desk.agent.used = 1500, agent_pb2.Resources(cpus=3, memory_mib=7)
    await desk.site.poll("rig")
    view = desk.site.view(time.monotonic())
    assert view.capacity is not None
    assert (view.delay_s, view.capacity.used) == (1.5, Amount(3, 7))


async def test_the_use_of_accounts_is_kept_with_the_queue_and_limits_what_goes(desk: Desk, tmp_path: Path) -> None:
    words = f"{CONFIG.parameters[0]},overspill_max_cpu_hours@physics=1"
    desk.view.config = replace(CONFIG, parameters=(words, ""))
    await desk.refresh()
    assert (await desk.decide(account="physics")).reason == "use_unknown"
    with Tally(tmp_path / "accounts.db") as tally:
        desk.watch = desk.router._watch = ClusterWatch(desk.view, 0.2, tally)  # noqa: SLF001 - with a tally
        await desk.refresh()
        assert (await desk.decide(account="physics", time_limit_min=40)).verdict == DIVERT
        assert (await desk.decide(account="physics", time_limit_min=40)).reason == "max_cpu_hours"
        assert (await desk.decide(account="physics", time_limit_min=20, is_dry_run=True)).verdict == DIVERT
        assert (await desk.decide(account="chem", time_limit_min=400)).verdict == DIVERT


async def test_a_defect_in_the_decision_keeps_the_job_local(desk: Desk) -> None:
    desk.router._sites = [None]  # type: ignore[list-item]  # noqa: SLF001 - the defect
    answer = await desk.decide()
    assert (answer.verdict, answer.reason) == (LOCAL, "router_error")


async def test_a_wait_of_centuries_is_still_an_answer(desk: Desk) -> None:
    for slurm_job_id in range(1000, 3000):
        desk.view.jobs[slurm_job_id] = job(slurm_job_id, cpus=8, tasks=1000, time_limit_s=300 * 86400)
    await desk.refresh()
    answer = await desk.decide()
    assert (answer.verdict, answer.predicted_wait_s) == (DIVERT, 2**32 - 1)


async def test_a_request_with_megabytes_of_text_is_answered(desk: Desk) -> None:
    assert (await desk.decide(job_name="x" * 5_000_000)).verdict == DIVERT


async def test_a_job_larger_than_any_number_is_decided_and_recorded(desk: Desk) -> None:
    with Ledger(None, keep=10) as ledger:
        router = Router(desk.watch, [desk.site], promise_s=30, ledger=ledger)
        router.answer(
            router_pb2.DecideRequest(
                has_script=True,
                num_tasks=2**32 - 3,
                cpus_per_task=65533,
                memory_per_cpu_mib=2**63,
                time_limit_min=2**32 - 3,
                array=",".join(["1-999999999"] * 9),
            )
        )
        (record,) = map(DecisionRecord.FromString, await ledger.find(Search()))
    assert (record.verdict, record.cpus, record.slots) == ("LOCAL", 2**32 - 1, 2**32 - 1)


async def test_only_our_own_user_may_ask(desk: Desk) -> None:
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o600


async def test_a_second_router_does_not_take_the_socket_from_the_first(desk: Desk) -> None:
    with pytest.raises(ConfigError, match="another sidecar serves"), SocketPath(desk.path):
        pass
    assert (await desk.decide()).verdict == DIVERT


def test_a_socket_that_a_dead_router_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    with SocketPath(path):
        assert not path.exists()


@pytest.mark.parametrize("is_alive", [True, False])
def test_another_users_socket_is_cleared_away_only_if_nobody_is_behind_it(*, is_alive: bool) -> None:
    # pytest's own directories are closed to other users.
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as other:
        path = Path(directory, "router.sock")
        os.chown(directory, 2001, 2001)
        other.bind(str(path))
        other.listen()
        path.chmod(0o700)
        if not is_alive:
            other.close()
        # Forked, not executed: another user may not be able to read this checkout.
        taker = multiprocessing.get_context("fork").Process(target=_take_as_another_user, args=(path,))
        taker.start()
        taker.join(timeout=20)
    assert taker.exitcode == (_REFUSED if is_alive else 0)


_REFUSED = 3


def _take_as_another_user(path: Path) -> None:
    os.setgroups([])
    os.setgid(2001)
    os.setuid(2001)
    try:
        with SocketPath(path):
            os._exit(0)
    except ConfigError as error:
        os._exit(_REFUSED if "another server answers" in error.reason else 1)


def test_a_socket_of_somebody_elses_living_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigError, match="another server answers"), SocketPath(path):
            pass
    assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"), SocketPath(path):
        pass
    assert path.read_text() == "precious"


def test_a_directory_in_which_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="chmod go-w"), SocketPath(tmp_path / "open" / "router.sock"):
        pass
    os.chown(tmp_path / "open", 2001, 2001)
    with pytest.raises(ConfigError, match="belongs to uid 2001"), SocketPath(tmp_path / "open" / "router.sock"):
        pass
    with pytest.raises(ConfigError, match="create it"), SocketPath(tmp_path / "absent" / "router.sock"):
        pass


async def _health(desk: Desk, service: str) -> int:
    """Ask as a probe does."""
    async with grpc.aio.insecure_channel(f"unix:{desk.path}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        response = await check(health_pb2.HealthCheckRequest(service=service), timeout=30)
    return int(response.status)


async def test_a_router_that_knows_the_queue_serves(desk: Desk) -> None:
    assert await _health(desk, "") == health_pb2.HealthCheckResponse.SERVING
    assert await _health(desk, "overspill.v1.Router") == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _health(desk, "overspill.v1.Nobody")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_router_whose_picture_of_the_queue_is_stale_lives_but_does_not_serve(desk: Desk) -> None:
    async def is_stale() -> bool:
        return await _health(desk, "overspill.v1.Router") == health_pb2.HealthCheckResponse.NOT_SERVING

    await eventually_async(is_stale, "the picture is too old")
    assert await _health(desk, "") == health_pb2.HealthCheckResponse.SERVING
    await desk.refresh()
    assert not await is_stale()
