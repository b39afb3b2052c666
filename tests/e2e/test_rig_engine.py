"""A rig whose site has a container engine: what it has, and that nothing of it is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overspill_images import cgroups
from tests.rig import Part, Rig, RigError
from tests.rig.directory import is_alive
from tests.rig.engine import HostEngine
from tests.rig.overspill_conf import RUNNER_PORT
from tests.rig.parts import CHECKOUT
from tests.rig.tree import ADDRESSES
from tests.rig.waiting import poll

#: Making images takes minutes on a machine that has none yet.
pytestmark = pytest.mark.timeout(900)
_BRING_UP_AND_WAIT = """
from tests.rig import Part, Rig
rig = Rig.up(without=list(Part), backend="docker")
print(rig.path, flush=True)
input()
"""
_CONNECT = f"exec 3<>/dev/tcp/{ADDRESSES['site']}/{RUNNER_PORT}"
_LISTEN = f"import socket; s = socket.create_server(('', {RUNNER_PORT})); print(flush=True); s.accept()"


@pytest.fixture(scope="module")
def engine_rig() -> Iterator[Rig]:
    with Rig.up(without=list(Part), backend="docker") as running:
        yield running


def _image(rig: Rig) -> str:
    return HostEngine(rig.site).docker("images", "--format={{.Repository}}:{{.Tag}}").splitlines()[0]


def _cgroups(rig: Rig) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"*/{cgroups.name_of_engine(rig.site.init_pid)}")]


def test_a_container_reaches_what_listens_on_the_sites_address(engine_rig: Rig) -> None:
    listener = subprocess.Popen(
        engine_rig.site.command(["/usr/bin/python3", "-c", _LISTEN]), stdout=subprocess.PIPE, text=True
    )
    with listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        HostEngine(engine_rig.site).docker("run", "--rm", _image(engine_rig), "bash", "-c", _CONNECT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containers_outlive_the_engine(engine_rig: Rig, number: signal.Signals) -> None:
    engine = HostEngine(engine_rig.site)
    name = f"outlives-{number.name}"
    engine.docker("run", "--detach", f"--name={name}", "--init", _image(engine_rig), "sleep", "1000")
    dockerd = engine_rig.site.daemon("dockerd")
    dockerd.signal(number)
    assert poll(lambda: not dockerd.is_running, timeout_s=30)
    dockerd.start()
    assert engine.docker("inspect", "--format={{.State.Running}} {{.RestartCount}}", name).split() == ["true", "0"]


def test_the_images_of_the_cache_are_as_they_were_after_a_container_has_written(new_rig: Callable[..., Rig]) -> None:
    change = "sha256sum /usr/bin/env; echo changed >/usr/bin/env"
    seen = []
    for _ in range(2):
        rig = new_rig(without=list(Part), backend="docker")
        seen += [HostEngine(rig.site).docker("run", "--rm", _image(rig), "bash", "-c", change) for _ in range(2)]
        rig.down()
    assert seen == seen[:1] * 4


def test_a_rig_with_an_engine_leaves_nothing_when_down(new_rig: Callable[..., Rig]) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    rig = new_rig(without=list(Part), backend="docker")
    HostEngine(rig.site).docker("run", "--detach", _image(rig), "sleep", "1000")
    assert _cgroups(rig)
    rig.down()
    assert not _cgroups(rig)
    assert not rig.path.exists()
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_a_killed_program_leaves_no_container_and_the_next_rig_removes_the_rest(new_rig: Callable[..., Rig]) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", _BRING_UP_AND_WAIT],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        left = Rig.attach(Path(program.stdout.readline().strip()))
        HostEngine(left.site).docker("run", "--detach", _image(left), "sleep", "1000")
        program.kill()
    assert poll(lambda: not is_alive(left.path), timeout_s=10)
    new_rig(without=list(Part))
    assert not left.path.exists()
    assert not _cgroups(left)


def test_a_back_end_that_no_rig_has_is_refused() -> None:
    with pytest.raises(RigError, match="podman"):
        Rig.up(backend="podman")
