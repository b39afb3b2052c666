"""The engine that tests and the image builder start for themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspill_images import cgroups
from overspill_images.builder import Builder
from overspill_images.engine import Engine, EngineError, docker
from tests.container_engine import engine_with
from tests.integration.agent_site import wait_until
from tests.rig.parts import CHECKOUT

pytestmark = pytest.mark.timeout(900)  # On a fresh machine the image is built first.

MINI = "runtime-mini"
_COUNTING = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
#: Says the engine's PID 1, then waits to be killed.
_PROGRAM = f"""
import sys
from overspill_images.engine import docker
from tests.container_engine import engine_with
with engine_with("{MINI}") as engine:
    reference = docker(engine.socket, "images", "--format={{{{.Repository}}}}:{{{{.Tag}}}}").split()[0]
    docker(engine.socket, "run", "--detach", "--network=none", "--name=survivor", reference, "sleep", "1000")
    print(engine.init_pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_with(MINI) as engine:
        yield engine


@pytest.fixture
def reference() -> str:
    return Builder().build([MINI])[0].reference


def test_a_container_goes_on_while_its_engine_is_killed_and_started_again(engine: Engine, reference: str) -> None:
    docker(engine.socket, "run", "--detach", "--network=none", "--name=counting", reference, "sh", "-c", _COUNTING)
    form = "{{.State.Pid}} {{.State.StartedAt}}"
    before = docker(engine.socket, "inspect", f"--format={form}", "counting")
    engine.restart(signal.SIGKILL)
    assert docker(engine.socket, "inspect", f"--format={form}", "counting") == before
    seen = docker(engine.socket, "logs", "counting").split()
    wait_until(lambda: docker(engine.socket, "logs", "counting").split() > seen, "more output")
    lines = docker(engine.socket, "logs", "counting").split()
    assert lines == [str(number + 1) for number in range(len(lines))]


def test_a_containers_limits_are_the_kernels(engine: Engine, reference: str) -> None:
    limits = ("--memory=64m", "--memory-swap=64m", "--pids-limit=5", "--network=none")
    program = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done"
    with pytest.raises(ChildProcessError, match="Cannot fork"):
        docker(engine.socket, "run", "--rm", *limits, reference, "sh", "-e", "-c", f"{program}; exit 1")
    with pytest.raises(ChildProcessError, match="exit code 137"):
        docker(engine.socket, "run", "--rm", *limits, reference, "python3", "-c", "print(len(b'x' * 100_000_000))")


def test_it_has_no_network_but_this_machines(engine: Engine) -> None:
    names = docker(engine.socket, "network", "ls", "--format={{.Name}}").split()
    assert sorted(names) == ["host", "none"]


def test_it_ends_with_its_containers_when_its_program_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    with program:
        assert program.stdout is not None
        init_pid = int(program.stdout.readline())
        program.kill()
    wait_until(lambda: not Path("/proc", str(init_pid)).exists(), "the end of its PID 1, and so of everything")
    cgroups.sweep()
    # A cgroup with a process in it could not be removed.
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{cgroups.name_of_engine(init_pid)}"))


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(EngineError, match=r"dockerd does not answer[\s\S]*data"):
        Engine(tmp_path).start()
