"""The docker back end on bad days, with a real engine: what others do to its containers, and images that are unfit."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overspill.cli.finding import Finding, Level
from overspill.errors import AdminError, ExhaustedError, UnavailableError, UnrunnableError
from overspill.states import Outcome
from overspill_agent.backends.base import Demand, Image
from overspill_agent.backends.docker import Rules
from overspill_agent.backends.docker import engine as docker_api
from overspill_agent.backends.docker.reading import RefusedError
from overspill_agent.checks import container_engine
from overspill_agent.config import parse
from overspill_agent.registry import LiveRun
from overspill_agent.runs import Resources, Seen
from overspill_agent.spool import Stream
from overspill_images.engine import Engine, docker
from tests.conformance.backends import scripts
from tests.conformance.backends.docker_place import MINI, DockerPlace
from tests.conformance.backends.site import SMALL, Site, site_of, until
from tests.conformance.backends.verbs import started
from tests.container_engine import engine_with

_WITH_GPU = Resources(cpus=1, memory_mib=128, gpus=1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_with("runtime-mini") as engine:
        yield engine


@pytest.fixture(scope="module")
def found_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture
def place(engine: Engine, tmp_path: Path, found_out: Path) -> DockerPlace:
    return DockerPlace(engine, tmp_path / "host", found_out)


@pytest.fixture
async def site(place: DockerPlace, tmp_path: Path) -> AsyncIterator[Site]:
    """An agent that brings runs on by itself."""
    async with site_of(place, tmp_path, has_loop=True) as site:
        yield site


@pytest.fixture
async def hand(place: DockerPlace, tmp_path: Path) -> AsyncIterator[Site]:
    """An agent whose loop is the test's hand."""
    async with site_of(place, tmp_path, has_loop=False) as site:
        yield site


def name_of(live: LiveRun) -> str:
    return f"overspill-{live.run.run_id}-1"


def inspect(engine: Engine, name: str) -> dict[str, Any]:
    inspected: dict[str, Any] = json.loads(docker(engine.socket, "inspect", name))[0]
    return inspected


async def ready(site: Site, script: bytes = scripts.WAITING) -> LiveRun:
    live = await site.accept(script)
    await site.until_said(live, "ready")
    return live


async def test_a_start_that_comes_after_all_is_not_undone_as_one_that_never_was(
    place: DockerPlace, hand: Site, engine: Engine
) -> None:
    """An agent that has died may have asked the engine for a start that comes only while the next one looks."""
    live = await hand.accept(scripts.WAITING)
    await hand.backend.start(await hand.prepare(live))
    api = docker_api.Engine(place.site.socket)
    with pytest.raises(RefusedError, match="running container") as refused:
        await api.remove(name_of(live), even_alive=False)
    assert refused.value.is_conflict
    assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
    api.close()


# What others do


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("kill",), "killed at the site"),
        (("stop",), "killed at the site"),
        (("rm", "--force"), "removed at the site"),
    ],
)
async def test_a_container_that_somebody_ends_is_a_node_that_failed(
    site: Site, engine: Engine, argv: tuple[str, ...], told: str
) -> None:
    live = await ready(site)
    docker(engine.socket, *argv, name_of(live))
    ending = await site.ending(live)
    assert ending.outcome is Outcome.NODE_FAIL
    assert told in ending.reason
    assert site.starts_of(live) == 1


async def test_a_container_that_somebody_pauses_is_alive_and_can_be_stopped(hand: Site, engine: Engine) -> None:
    live = await started(hand)
    docker(engine.socket, "pause", name_of(live))
    assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
    await hand.backend.stop(live.run.run_id, 1)

    async def is_gone() -> bool:
        return (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.GONE

    await until("the paused run is gone", is_gone)
    assert hand.place.processes(live.run.run_id) == 0


def say_to(place: DockerPlace, live: LiveRun, line: bytes) -> None:
    """Write a line into the pipe `go` in the script's working directory."""
    (place.runs / live.run.run_id / "attempt-1/files/home/alice/project/go").write_bytes(line)


async def test_a_run_goes_on_while_the_engine_is_restarted_and_its_end_is_seen(
    site: Site, place: DockerPlace, engine: Engine
) -> None:
    live = await ready(site, b'#!/bin/bash\nmkfifo go\necho ready\nread -r line < go\necho "$line"\nexit 5\n')
    engine.restart()
    say_to(place, live, b"after\n")
    ending = await site.ending(live)
    assert (ending.outcome, ending.exit_code) == (Outcome.COMPLETED, 5)
    assert site.output(live) == b"ready\nafter\n"


async def test_an_agent_that_starts_while_the_engine_is_away_offers_nothing_until_it_is_back(
    place: DockerPlace, engine: Engine
) -> None:
    backend = place.backend()
    engine.kill_dockerd()
    try:
        await backend.open()
        assert backend.capacity().slots == ()
        with pytest.raises(UnavailableError, match=r"docker\.sock"):
            await backend.check(Demand(SMALL, image=MINI))
    finally:
        engine.restart()

    async def is_there() -> bool:
        return backend.capacity().total.cpus == 8

    await until("the engine is seen again", is_there)
    await backend.close()


# What a job is given


async def test_a_job_is_its_user_and_can_become_nobody_else(site: Site, engine: Engine) -> None:
    live = await ready(
        site,
        b"#!/bin/bash\n"
        b"grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr -s '[:blank:]' ' '\n"
        b"id -un; id -u; echo ~; pwd; touch ~/a /tmp/b . && echo writable\n"
        b"touch /etc/x 2>/dev/null || echo closed\n"
        b"python3 -c 'import os, pwd; print(pwd.getpwuid(os.getuid()).pw_dir)'\n"
        b"echo ready; exec sleep 600\n",
    )
    assert site.output(live).decode().splitlines() == [
        *("CapEff: 0000000000000000", "CapBnd: 0000000000000000", "NoNewPrivs: 1"),
        *("alice", "2001", "/home/alice", "/home/alice/project", "writable", "closed", "/home/alice", "ready"),
    ]


async def test_the_token_is_nowhere_in_what_the_engine_tells(hand: Site, engine: Engine) -> None:
    live = await hand.accept(scripts.WAITING)
    launch = await hand.prepare(live)
    await hand.backend.start(launch)
    await hand.until_said(live, "ready")
    assert launch.token not in json.dumps(inspect(engine, name_of(live)))


async def test_an_account_that_forks_without_end_meets_the_limit(place: DockerPlace, tmp_path: Path) -> None:
    place.site = replace(place.site, rules=replace(place.site.rules, pids_limit=40))
    script = b"""#!/usr/bin/python3
import os, time
for count in range(60):
    if not os.fork():
        time.sleep(600)
"""
    async with site_of(place, tmp_path, has_loop=True) as site:
        live = await site.accept(script)
        assert (await site.ending(live)).exit_code == 1
        assert b"BlockingIOError" in site.output(live, Stream.STDERR)


async def test_whatever_tree_a_job_leaves_is_removed(site: Site, place: DockerPlace) -> None:
    live = await site.accept(
        b'#!/bin/bash\npython3 -c \'import os\nfor _ in range(2000):\n    os.mkdir("deep"); os.chdir("deep")\'\n'
        b"mkdir -p /tmp/closed/in; chmod 0 /tmp/closed; touch $'odd\\nname'\n"
    )
    assert (await site.ending(live)).exit_code == 0
    await site.until_cleaned(live)


# GPUs, without one


@asynccontextmanager
async def with_gpus(place: DockerPlace, directory: Path) -> AsyncIterator[Site]:
    resources = replace(place.site.resources, gpus=1)
    place.site = replace(place.site, resources=resources, gpus=("GPU-1",), gpu_type="A100")
    async with site_of(place, directory, has_loop=False) as site:
        yield site


async def test_a_gpu_is_asked_for_by_its_id_and_given_to_one_run(
    place: DockerPlace, engine: Engine, tmp_path: Path
) -> None:
    async with with_gpus(place, tmp_path) as site:
        assert site.backend.capacity().slots[0].gpu_type == "a100"
        first, second = [await site.prepare(await site.accept(scripts.WAITING, _WITH_GPU)) for _ in range(2)]
        with pytest.raises(AdminError, match="gpu_driver"):
            await site.backend.start(first)
        asked = inspect(engine, f"overspill-{first.run_id}-1")["HostConfig"]["DeviceRequests"]
        assert [(request["DeviceIDs"], request["Capabilities"]) for request in asked] == [(["GPU-1"], [["gpu"]])]
        with pytest.raises(ExhaustedError, match="1 GPUs are asked for, and 0 are free"):
            await site.backend.start(second)
        assert (await site.backend.observe(first.run_id, 1)).seen is Seen.NOTHING
        with pytest.raises(AdminError):
            await site.backend.start(second)
        await site.backend.observe(second.run_id, 1)


# Images


def changed(engine: Engine, name: str, *, file: tuple[Path, str] | None = None, change: str = "ENV A=1") -> str:
    """Make another image of the small one."""
    container = docker(engine.socket, "create", MINI.reference, "true").strip()
    if file is not None:
        docker(engine.socket, "cp", str(file[0]), f"{container}:{file[1]}")
    docker(engine.socket, "commit", "--change", change, container, f"{name}:1")
    docker(engine.socket, "rm", container)
    return f"{name}:1"


async def test_an_image_whose_entry_point_fails_runs_jobs(place: DockerPlace, engine: Engine, tmp_path: Path) -> None:
    reference = changed(engine, "failing", change='ENTRYPOINT ["/bin/false"]')
    place.image = replace(MINI, reference=reference)
    async with site_of(place, tmp_path, has_loop=True) as site:
        live = await site.accept(scripts.exiting(3))
        assert (await site.ending(live)).exit_code == 3


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("/usr/bin/python4", "it has no /usr/bin/python4 that it can execute"),
        ("/etc/passwd", "it has no /etc/passwd that it can execute"),
        ("/bin/true", "its /bin/true does not run the runner: it says nothing"),
        ("/bin/ls", "its /bin/ls does not run the runner: "),
    ],
)
async def test_an_image_without_a_python_that_runs_the_runner_is_refused(hand: Site, python: str, told: str) -> None:
    for _ in range(2):
        with pytest.raises(UnrunnableError) as refused:
            await hand.backend.check(Demand(SMALL, image=replace(MINI, python=python)))
        assert told in refused.value.reason


async def test_an_image_with_an_old_python_is_refused_with_its_version(
    hand: Site, engine: Engine, tmp_path: Path
) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho '{\"version\": [3, 6]}'\n")
    old.chmod(0o755)
    reference = changed(engine, "old", file=(old, "/opt/python3"))
    with pytest.raises(UnrunnableError, match=r"/opt/python3 is Python 3\.6, and at least 3\.8 is needed"):
        await hand.backend.check(Demand(SMALL, image=Image("old", reference, "/opt/python3")))


async def test_an_image_that_names_files_of_the_host_makes_none(hand: Site, engine: Engine, tmp_path: Path) -> None:
    stolen = tmp_path / "stolen"
    said = {"version": [3, 11], "cache": str(stolen), "compiled": "AA==", "passwd": "", "group": ""}
    evil = tmp_path / "python3"
    evil.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
    evil.chmod(0o755)
    reference = changed(engine, "evil", file=(evil, "/opt/python3"))
    with pytest.raises(UnrunnableError, match="does not run the runner"):
        await hand.backend.check(Demand(SMALL, image=Image("evil", reference, "/opt/python3")))
    assert not stolen.exists()


async def test_an_image_that_takes_its_time_to_be_tried_holds_up_no_other(
    hand: Site, engine: Engine, tmp_path: Path
) -> None:
    await hand.backend.check(Demand(SMALL, image=MINI))
    slow = tmp_path / "python3"
    slow.write_text("#!/bin/sh\nexec sleep 50\n")
    slow.chmod(0o755)
    image = Image("slow", changed(engine, "slow", file=(slow, "/opt/python3")), "/opt/python3")
    trial = asyncio.create_task(hand.backend.check(Demand(SMALL, image=image)))

    async def is_being_tried() -> bool:
        return bool(docker(engine.socket, "ps", "--quiet", "--filter", "name=overspill-trial"))

    await until("the slow image is being tried", is_being_tried)
    await hand.backend.check(Demand(SMALL, image=MINI))
    assert not trial.done()
    trial.cancel()
    await asyncio.wait({trial})


async def test_what_a_loss_of_power_has_left_of_findings_is_found_out_anew(place: DockerPlace, hand: Site) -> None:
    await hand.backend.check(Demand(SMALL, image=MINI))
    kept = list((place.runs / ".images").glob("*.json"))
    for file in kept:
        file.write_text("")
    backend = place.backend()
    await backend.open()
    await backend.check(Demand(SMALL, image=MINI))
    await backend.close()
    assert any(file.stat().st_size for file in kept)


async def test_pulls_that_do_not_come_on_hold_up_nothing_else(hand: Site) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as registry:
        port = registry.getsockname()[1]
        for number in range(10):
            image = Image("far", f"localhost:{port}/far:{number}", "/usr/bin/python3", may_be_pulled=True)
            with pytest.raises(UnavailableError, match="being fetched"):
                await hand.backend.check(Demand(SMALL, image=image))
        async with asyncio.timeout(60):
            await hand.backend.check(Demand(SMALL, image=MINI))


async def test_an_image_is_never_pulled_unless_that_is_allowed(hand: Site) -> None:
    with pytest.raises(UnrunnableError, match="docker pull localhost:1/none"):
        await hand.backend.check(Demand(SMALL, image=Image("none", "localhost:1/none:1", "/usr/bin/python3")))


async def test_an_image_that_cannot_be_pulled_is_refused_with_the_reason(hand: Site) -> None:
    demand = Demand(SMALL, image=Image("none", "localhost:1/none:1", "/usr/bin/python3", may_be_pulled=True))
    with pytest.raises(UnavailableError, match="being fetched"):
        await hand.backend.check(demand)

    async def is_refused() -> bool:
        try:
            await hand.backend.check(demand)
        except UnrunnableError as refused:
            return "cannot be fetched" in refused.reason
        except UnavailableError:
            return False
        return False

    await until("the pull has failed", is_refused)


async def test_an_image_that_vanishes_after_the_check_ends_the_run_as_rejected(
    place: DockerPlace, engine: Engine, tmp_path: Path
) -> None:
    place.image = replace(MINI, reference=changed(engine, "vanishing", change="ENV B=2"))
    async with site_of(place, tmp_path, has_loop=True) as site:
        await site.backend.check(Demand(SMALL, image=place.image))
        docker(engine.socket, "rmi", "vanishing:1")
        ending = await site.ending(await site.accept(scripts.exiting(0)))
    assert ending.outcome is Outcome.REJECTED
    assert "missing at this site" in ending.reason


# Misconfiguration


@contextmanager
def another_directory(place: DockerPlace, size: str) -> Iterator[None]:
    """Mount something over the directory; the engine has made its own view of this machine before."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place.runs)], check=True)
    try:
        place.know_images()
        yield
    finally:
        subprocess.run(["umount", str(place.runs)], check=True)


async def test_a_directory_that_the_engine_does_not_have_is_told(place: DockerPlace, hand: Site) -> None:
    await hand.backend.check(Demand(SMALL, image=MINI))
    launch = await hand.prepare(await hand.accept(scripts.WAITING))
    with another_directory(place, "16m"), pytest.raises(AdminError, match=r"\[docker\] directory"):
        await hand.backend.start(launch)
    await hand.backend.observe(launch.run_id, 1)


async def test_a_full_disk_puts_a_start_off(place: DockerPlace, hand: Site) -> None:
    await hand.backend.check(Demand(SMALL, image=MINI))
    launch = await hand.prepare(await hand.accept(scripts.WAITING))
    with another_directory(place, "64k"), pytest.raises(ExhaustedError, match="No space left"):
        await hand.backend.start(launch)


async def test_a_network_that_the_engine_does_not_have_is_told_at_the_start(place: DockerPlace) -> None:
    place.site = replace(place.site, rules=Rules(agent=str(place.runs), network="nosuchnetwork"))
    backend = place.backend()
    with pytest.raises(AdminError, match="docker network create nosuchnetwork"):
        await backend.open()
    await backend.close()


async def test_a_trial_that_was_cut_short_leaves_nothing(place: DockerPlace, engine: Engine) -> None:
    label = f"org.overspill.agent={place.runs}"
    docker(engine.socket, "create", "--label", label, MINI.reference, "true")
    old = place.runs / ".images" / "trial-old"
    old.mkdir()
    os.utime(old, (0, 0))
    backend = place.backend()
    await backend.open()
    assert await place.leftovers() == []
    assert not old.exists()
    await backend.close()


# overspill check


CONFIG = """
[server]
listen = "127.0.0.1:7443"
[runner_channel]
listen = "127.0.0.1:7444"
url = "https://localhost:7444"
[store]
path = "/var/lib/overspill-agent/agent.db"
[docker]
directory = "{directory}"
socket = "{socket}"
network = "{network}"
cpus = 1000
memory_mib = 1024
[images.mini]
reference = "overspill/runtime-mini:0.1.0"
"""


def findings(place: DockerPlace, *, network: str = "host", socket: str = "") -> dict[str, Finding]:
    url = socket or place.site.socket
    config = parse(CONFIG.format(directory=place.runs, socket=url, network=network), "agent.toml")
    assert config.docker is not None
    return {finding.subject: finding for finding in container_engine.engine(config, config.docker)}


def test_check_tells_what_the_engine_lacks(place: DockerPlace) -> None:
    found = findings(place)
    assert {subject: finding.level for subject, finding in found.items()} == {
        "container engine": Level.OK,
        "container engine: CPUs": Level.WARNING,
        "container engine: network": Level.WARNING,
    }


def test_check_tells_that_there_is_no_such_network_or_no_engine(place: DockerPlace) -> None:
    assert "docker network create nothing" in findings(place, network="nothing")["container engine"].says
    assert "/run/none.sock" in findings(place, socket="unix:///run/none.sock")["container engine"].says
