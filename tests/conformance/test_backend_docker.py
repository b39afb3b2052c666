"""The docker back end passes the suite, with a real engine; needs root."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest

from overspill_agent.backends.base import Account, Backend, Image
from overspill_agent.backends.docker import DockerBackend, DockerSite, Rules
from overspill_agent.backends.docker.images import KEPT
from overspill_agent.config import DEFAULT_RUNNER
from overspill_agent.runs import Resources
from overspill_images.engine import Engine, docker
from tests.conformance.backends.dying import Countdown, dying_at_system_call
from tests.conformance.backends.place import Expectations, marked_processes
from tests.conformance.backends.suite import BackendSuite
from tests.container_engine import engine_with

MINI = Image("mini", "overspill/runtime-mini:0.1.0", "/usr/bin/python3")
#: Each costs a container. Directories are made anew by every start, and what is in one is never looked at.
_STEPS = frozenset({"http.client.send", "open", "os.remove"})


class DockerPlace:
    """`Place` in an engine on this machine's network, which another program's `docker` never sees."""

    account = Account(name="alice", uid=2001, gid=2001, groups=(2001,), home="/home/alice")
    listen = agent_host = "127.0.0.1"
    image = MINI
    unknown_image = Image("missing", "missing:1", "/usr/bin/python3")
    expects = Expectations()

    def __init__(self, engine: Engine, directory: Path, found_out: Path) -> None:
        """Take a place in the engine; what is found out about images is kept in `found_out` for the next place."""
        self._engine = engine
        self._runs = directory / "runs"
        self._runs.mkdir(parents=True)
        (self._runs / KEPT).symlink_to(found_out)
        self._site = DockerSite(
            directory=self._runs,
            resources=Resources(cpus=8, memory_mib=4096),
            rules=Rules(agent=str(self._runs), network="host"),
            socket=f"unix://{engine.socket}",
            runner=DEFAULT_RUNNER,
            private=(PurePosixPath("/home"), PurePosixPath("/tmp")),
        )

    def backend(self) -> Backend:
        return DockerBackend(self._site)

    def dying_at(self, step: int) -> AbstractContextManager[Countdown]:
        return dying_at_system_call(step, _STEPS)

    def processes(self, run_id: str) -> int:
        return marked_processes(run_id)

    async def lose_machine(self) -> None:
        """Kill the engine and everything in it, as of a power cut; the agent is on the same machine: it is back."""
        self._engine.stop()
        self._engine.start()

    async def regain_machine(self) -> None:
        """It is the agent's own: it has never been away for longer than the runs."""

    @asynccontextmanager
    async def out_of_sight(self) -> AsyncIterator[None]:
        self._engine.kill_dockerd()
        yield
        self._engine.restart()

    async def leftovers(self) -> list[str]:
        containers = docker(
            self._engine.socket, "ps", "--all", "--quiet", "--filter", f"label=org.overspill.agent={self._runs}"
        )
        return [*containers.split(), *(entry.name for entry in self._runs.iterdir() if entry.name != KEPT)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_with("runtime-mini") as engine:
        yield engine


@pytest.fixture(scope="module")
def found_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


class TestDocker(BackendSuite):
    """Every case, of the docker back end."""

    @pytest.fixture
    def place(self, engine: Engine, found_out: Path, tmp_path: Path) -> DockerPlace:
        return DockerPlace(engine, tmp_path / "host", found_out)
