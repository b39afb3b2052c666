"""The runner's protocol, spoken by hand: the agent before a runner that is late, doubled, wrong or broken off."""

import asyncio
import base64
import http.client
import json
import ssl
import time
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from overspill.runner_protocol import FRAME_HEADER, MAX_FRAME_BYTES, RunnerFrame
from overspill.v1 import agent_pb2 as pb
from tests.integration.agent_relay import Followed, Relay, relay_of
from tests.integration.agent_site import DEADLINE_S, Site, running_site, wait_until

#: A runner that only lives, so that the test can be the runner.
_IDLE = "import time\ntime.sleep(600)\n"


def frame(kind: RunnerFrame, number: int, payload: bytes) -> bytes:
    return FRAME_HEADER.pack(kind, len(payload), number) + payload


def report(number: int, **fields: Any) -> bytes:
    return frame(RunnerFrame.REPORT, number, json.dumps(fields).encode())


def out(offset: int, data: bytes) -> bytes:
    return frame(RunnerFrame.STDOUT, offset, data)


STARTED = report(1, kind="started", pid=2)


@dataclass
class Hand:
    """Requests of one attempt's runner, each on a connection of its own."""

    site: Site
    run_id: str
    attempt: int = 1
    token: str = ""

    def __post_init__(self) -> None:
        path = self.site.state / "runs" / self.run_id / f"attempt-{self.attempt}" / "control" / "token"
        wait_until(path.exists, "the runner is started")
        wait_until(lambda: bool(path.read_text()), "the token is written")
        self.token = self.token or path.read_text()

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.site.root / "ca.crt"))
        return http.client.HTTPSConnection("localhost", self.site.runner_port, timeout=DEADLINE_S, context=context)

    def request(self, method: str, name: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            path = f"/runner/v1/{self.run_id}/{self.attempt}/{name}"
            connection.request(method, path, body, {"Authorization": f"Bearer {self.token}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, name: str) -> tuple[int, bytes]:
        return self.request("GET", name)

    def upload(self, *frames: bytes) -> int:
        return self.request("POST", "upload", b"".join(frames))[0]

    def begin_upload(self, *frames: bytes) -> http.client.HTTPSConnection:
        """Send some of an upload that goes on."""
        connection = self.connect()
        connection.putrequest("POST", f"/runner/v1/{self.run_id}/{self.attempt}/upload")
        connection.putheader("Authorization", f"Bearer {self.token}")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for data in frames:
            connection.send(b"%x\r\n%b\r\n" % (len(data), data))
        return connection

    def events(self) -> Generator[tuple[str, dict[str, Any]], None, None]:
        """Yield events until the generator is closed."""
        connection = self.connect()
        path = f"/runner/v1/{self.run_id}/{self.attempt}/events"
        connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("content-type", "").startswith("text/event-stream")
        name = ""
        try:
            while line := response.readline():
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def idle_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root: Path = tmp_path_factory.mktemp("idle")
    (root / "idle.py").write_text(_IDLE)
    with running_site(root, runner=root / "idle.py", cpus=100) as site:
        yield site


@pytest.fixture
async def idle_relay(idle_site: Site) -> AsyncIterator[Relay]:
    async with relay_of(idle_site) as relay:
        yield relay


@pytest.fixture
async def hand(idle_site: Site, idle_relay: Relay) -> AsyncIterator[Hand]:
    run_id = await idle_relay.submit(b"#!/bin/sh\nexit 0\n", time_limit_s=60)
    yield await asyncio.to_thread(Hand, idle_site, run_id)
    await idle_relay.stub.Stop(pb.StopRequest(run_id=run_id))


async def test_the_spec_is_told_as_documented(hand: Hand) -> None:
    status, body = await asyncio.to_thread(hand.get, "spec")
    spec = json.loads(body)
    assert status == 200
    assert base64.b64decode(spec["cwd"]) == b"/home/alice/project"
    assert base64.b64decode(spec["argv"][0]).endswith(b"/slurm_script")
    assert base64.b64decode(spec["environment"][0]) == b"PATH=/usr/bin:/bin"
    assert (spec["umask"], spec["time_limit_s"], spec["time_limit_grace_s"]) == (0o022, 60, 60)
    assert (spec["kill_wait_s"], spec["lease_s"], spec["spool_bytes"]) == (30, 90, 512 << 20)
    assert await asyncio.to_thread(hand.get, "script") == (200, b"#!/bin/sh\nexit 0\n")


async def test_limits_are_told_with_minus_one_for_none(idle_site: Site, idle_relay: Relay) -> None:
    limit = pb.Rlimit(name="NOFILE", soft=1024, hard=2**64 - 1)
    run_id = await idle_relay.submit(b"#!/bin/sh\n", rlimits=[limit])
    hand = await asyncio.to_thread(Hand, idle_site, run_id)
    _, body = await asyncio.to_thread(hand.get, "spec")
    assert json.loads(body)["rlimits"] == {"NOFILE": [1024, -1]}
    await idle_relay.stub.Stop(pb.StopRequest(run_id=run_id))


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"token": "wrong"}, 401), ({"attempt": 2}, 401), ({"run_id": "0" * 32}, 404)],
)
async def test_strangers_are_turned_away(hand: Hand, changes: dict[str, Any], status: int) -> None:
    for name, value in changes.items():
        setattr(hand, name, value)
    for resource in ("spec", "script", "stdin", "events"):
        assert (await asyncio.to_thread(hand.get, resource))[0] == status
    assert await asyncio.to_thread(hand.upload, STARTED) == status


async def test_what_comes_twice_is_dropped_and_the_end_comes_once(hand: Hand, idle_relay: Relay) -> None:
    assert await asyncio.to_thread(hand.upload, STARTED, out(0, b"abc")) == 200
    assert await asyncio.to_thread(hand.upload, STARTED, out(0, b"abc"), out(3, b"def")) == 200
    end = report(2, kind="ended", exit_code=7, stdout=6, stderr=0)
    assert await asyncio.to_thread(hand.upload, out(2, b"cdef"), end) == 200
    assert await asyncio.to_thread(hand.upload, report(2, kind="ended", exit_code=0, stdout=6, stderr=0)) == 409
    followed = await idle_relay.follow(hand.run_id)
    assert followed.stdout == b"abcdef"
    assert followed.ended is not None
    assert followed.ended.exit_code == 7


@pytest.mark.parametrize(
    "frames",
    [
        [out(1, b"x")],
        [STARTED, report(3, kind="signalled", seq=1)],
        [STARTED, out(0, b"abc"), report(2, kind="ended", exit_code=0, stdout=4, stderr=0)],
        [report(1, kind="nonsense")],
        [FRAME_HEADER.pack(9, 0, 0)],
        [FRAME_HEADER.pack(RunnerFrame.STDOUT, MAX_FRAME_BYTES + 1, 0)],
    ],
    ids=["output gap", "report gap", "end before output", "no report", "no frame", "too long"],
)
async def test_a_gap_or_nonsense_is_answered_with_400_and_ends_nothing(hand: Hand, frames: list[bytes]) -> None:
    assert await asyncio.to_thread(hand.upload, *frames) == 400
    assert (await asyncio.to_thread(hand.get, "script"))[0] == 200


async def test_hello_tells_what_is_held_and_ack_what_has_become_durable(hand: Hand) -> None:
    def talk() -> None:
        assert hand.upload(STARTED, out(0, b"abc")) == 200
        events = hand.events()
        assert next(events) == ("hello", {"stdout": 3, "stderr": 0, "seq": 1})
        connection = hand.begin_upload(out(3, b"def"))
        assert next(events) == ("ack", {"stdout": 6, "stderr": 0, "seq": 1})
        connection.close()
        events.close()

    await asyncio.to_thread(talk)


async def test_output_of_an_upload_that_breaks_off_is_kept(hand: Hand, idle_relay: Relay) -> None:
    def talk() -> None:
        connection = hand.begin_upload(STARTED, out(0, b"abc"), out(3, b"def")[:-1])
        events = hand.events()
        while (held := next(events)[1])["stdout"] != 3:
            assert held["stdout"] == 0
        connection.close()
        end = report(2, kind="ended", exit_code=0, stdout=6, stderr=0)
        assert hand.upload(out(3, b"def"), end) == 200
        events.close()

    await asyncio.to_thread(talk)
    assert (await idle_relay.follow(hand.run_id)).stdout == b"abcdef"


async def test_signals_wait_for_the_script_and_are_told_until_they_are_acknowledged(
    hand: Hand, idle_relay: Relay
) -> None:
    async def signal(seq: int, number: int) -> None:
        scope = pb.SIGNAL_SCOPE_TREE if number == 19 else pb.SIGNAL_SCOPE_SHELL
        request = pb.SignalRequest(run_id=hand.run_id, signal=number, scope=scope, signal_seq=seq)
        await idle_relay.stub.Signal(request)

    def next_signal(events: Iterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        return next(data for name, data in events if name == "signal")

    await signal(1, 15)
    await signal(2, 19)
    events = hand.events()
    assert (await asyncio.to_thread(next, events))[0] == "hello"
    await asyncio.to_thread(hand.upload, STARTED)
    warning, suspend = {"seq": 1, "signal": 15, "scope": "shell"}, {"seq": 2, "signal": 19, "scope": "tree"}
    assert [await asyncio.to_thread(next_signal, events) for _ in range(2)] == [warning, suspend]
    await signal(3, 12)
    assert await asyncio.to_thread(next_signal, events) == {"seq": 3, "signal": 12, "scope": "shell"}
    again = hand.events()
    assert [await asyncio.to_thread(next_signal, again) for _ in range(2)] == [warning, suspend]
    await asyncio.to_thread(hand.upload, report(2, kind="signalled", seq=2))
    once_more = hand.events()
    assert [(await asyncio.to_thread(next_signal, once_more))["seq"] for _ in range(2)] == [1, 3]
    for stream in (events, again, once_more):
        stream.close()


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_signal_after_the_script_was_given_is_the_scripts_to_handle(
    hand: Hand,
    idle_site: Site,
    idle_relay: Relay,
    is_restarted: bool,  # noqa: FBT001
) -> None:
    assert (await asyncio.to_thread(hand.get, "spec"))[0] == 200
    if is_restarted:
        idle_site.kill()
        await asyncio.to_thread(idle_site.start)
    request = pb.SignalRequest(run_id=hand.run_id, signal=15, scope=pb.SIGNAL_SCOPE_TREE, signal_seq=1)
    await idle_relay.stub.Signal(request, wait_for_ready=True, timeout=DEADLINE_S)

    def first_two() -> list[tuple[str, dict[str, Any]]]:
        assert hand.upload(STARTED) == 200
        events = hand.events()
        told = [next(events), next(events)]
        events.close()
        return told

    told = await asyncio.to_thread(first_two)
    assert [name for name, _ in told] == ["hello", "signal"]
    assert told[1][1] == {"seq": 1, "signal": 15, "scope": "tree"}


async def test_a_runner_is_told_the_time_limit_that_the_relay_knows(hand: Hand, idle_relay: Relay) -> None:
    def next_limit(events: Iterator[tuple[str, dict[str, Any]]]) -> int:
        return int(next(data for name, data in events if name == "limit")["time_limit_s"])

    await asyncio.to_thread(hand.upload, STARTED)
    call = idle_relay.stub.Attach()
    opening = pb.AttachOpen(run_id=hand.run_id, time_limit_s=3600, **{"from": pb.OutputOffsets()})
    await call.write(pb.AttachRequest(open=opening))
    events = hand.events()
    assert await asyncio.to_thread(next_limit, events) == 3600
    await call.write(pb.AttachRequest(time_limit_s=0))
    assert await asyncio.to_thread(next_limit, events) == 0
    again = hand.events()
    assert await asyncio.to_thread(next_limit, again) == 0
    for stream in (events, again):
        stream.close()
    call.cancel()


async def test_an_ending_signal_before_the_script_was_given_cancels_the_run(hand: Hand, idle_relay: Relay) -> None:
    await idle_relay.stub.Signal(
        pb.SignalRequest(run_id=hand.run_id, signal=15, scope=pb.SIGNAL_SCOPE_TREE, signal_seq=1)
    )
    assert (await asyncio.to_thread(hand.get, "spec"))[0] == 409


async def test_a_stop_is_told_to_each_connection(hand: Hand, idle_relay: Relay) -> None:
    await asyncio.to_thread(hand.upload, STARTED)
    await idle_relay.stub.Stop(pb.StopRequest(run_id=hand.run_id, reason="enough"))

    def first_two() -> list[str]:
        events = hand.events()
        names = [next(events)[0], next(events)[0]]
        events.close()
        return names

    for _ in range(2):
        assert await asyncio.to_thread(first_two) == ["hello", "stop"]


async def test_a_run_that_is_to_stop_before_its_script_started_gets_no_spec(hand: Hand, idle_relay: Relay) -> None:
    await idle_relay.stub.Stop(pb.StopRequest(run_id=hand.run_id))
    assert (await asyncio.to_thread(hand.get, "spec"))[0] == 409


async def test_a_runner_that_does_not_stop_is_killed_by_the_backend(hand: Hand, idle_relay: Relay) -> None:
    await asyncio.to_thread(hand.upload, STARTED)
    begun = time.monotonic()
    await idle_relay.stub.Stop(pb.StopRequest(run_id=hand.run_id, reason="enough"))
    ended = (await idle_relay.follow(hand.run_id)).ended
    assert ended is not None
    assert (ended.outcome, ended.reason) == (pb.RUN_OUTCOME_CANCELLED, "enough")
    assert 2.5 < time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"signal": 9, "timed_out": True}, pb.RUN_OUTCOME_TIMEOUT),
        ({"signal": 9, "lease_lost": True}, pb.RUN_OUTCOME_NODE_FAIL),
        ({"error": "the script cannot be written"}, pb.RUN_OUTCOME_REJECTED),
    ],
)
async def test_the_runners_last_word_becomes_the_outcome(
    hand: Hand, idle_relay: Relay, fields: dict[str, Any], outcome: pb.RunOutcome.ValueType
) -> None:
    end = report(2, kind="ended", stdout=0, stderr=0, max_rss_kib=77, **fields)
    assert await asyncio.to_thread(hand.upload, STARTED, end) == 200
    ended = (await idle_relay.follow(hand.run_id)).ended
    assert ended is not None
    assert (ended.outcome, ended.usage.max_rss_kib) == (outcome, 77)
    assert ended.reason


async def test_a_runner_that_is_over_is_fenced_and_does_not_outlive_the_run(
    hand: Hand, idle_site: Site, idle_relay: Relay
) -> None:
    end = report(2, kind="ended", exit_code=0, stdout=0, stderr=0)
    assert await asyncio.to_thread(hand.upload, STARTED, end) == 200
    assert (await asyncio.to_thread(hand.get, "spec"))[0] == 409
    await idle_relay.follow(hand.run_id, Followed())
    directory = idle_site.state / "runs" / hand.run_id
    await asyncio.to_thread(wait_until, lambda: not directory.exists(), "the idle runner is killed and cleaned up")


async def test_standard_input_comes_whole(idle_site: Site, idle_relay: Relay) -> None:
    run_id = await idle_relay.submit(b"#!/bin/sh\n", has_stdin=True)
    data = bytes(range(256)) * 4096
    following = asyncio.create_task(idle_relay.follow(run_id, stdin=data))
    hand = await asyncio.to_thread(Hand, idle_site, run_id)
    assert await asyncio.to_thread(hand.get, "stdin") == (200, data)
    await idle_relay.stub.Stop(pb.StopRequest(run_id=run_id))
    await following
