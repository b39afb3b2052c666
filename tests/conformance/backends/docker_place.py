"""The docker back end's place: a real engine, which another program's `docker` never sees. Needs root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path, PurePosixPath

from overspill_agent.backends.base import Account, Backend, Image
from overspill_agent.backends.docker import DockerBackend, DockerSite, Rules
from overspill_agent.backends.docker.images import KEPT
from overspill_agent.config import DEFAULT_RUNNER
from overspill_agent.runs import Resources
from overspill_images.engine import Engine, docker
from tests.conformance.backends.dying import Countdown, dying_at_system_call
from tests.conformance.backends.place import Expectations, marked_processes

MINI = Image("mini", "overspill/runtime-mini:0.1.0", "/usr/bin/python3")
#: Each costs a container. Directories are made anew by every start, and what is in one is never looked at.
_STEPS = frozenset({"http.client.send", "open", "os.remove"})


class DockerPlace:
    """`Place` in an engine on this machine's network. What `site` says counts from the next back end on."""

    account = Account(name="alice", uid=2001, gid=2001, groups=(2001,), home="/home/alice")
    listen = agent_host = "127.0.0.1"
    image: Image | None = MINI
    unknown_image = Image("missing", "missing:1", "/usr/bin/python3")
    expects = Expectations()

    def __init__(self, engine: Engine, directory: Path, found_out: Path) -> None:
        """Take a place in the engine; what is found out about images is kept in `found_out` for the next place."""
        self.engine = engine
        self.runs = directory / "runs"
        self.runs.mkdir(parents=True)
        self._found_out = found_out
        self.know_images()
        self.site = DockerSite(
            directory=self.runs,
            resources=Resources(cpus=8, memory_mib=4096),
            rules=Rules(agent=str(self.runs), network="host"),
            socket=f"unix://{engine.socket}",
            runner=DEFAULT_RUNNER,
            private=(PurePosixPath("/home"), PurePosixPath("/tmp")),
        )

    def know_images(self) -> None:
        """Have the directory know what was found out, which is made anew."""
        (self.runs / KEPT).symlink_to(self._found_out)

    def backend(self) -> Backend:
        return DockerBackend(self.site)

    def dying_at(self, step: int) -> AbstractContextManager[Countdown]:
        return dying_at_system_call(step, _STEPS)

    def processes(self, run_id: str) -> int:
        return marked_processes(run_id)

    async def lose_machine(self) -> None:
        """Kill the engine and everything in it, as of a power cut; the agent is on the same machine: it is back."""
        self.engine.stop()
        self.engine.start()

    async def regain_machine(self) -> None:
        """It is the agent's own: it has never been away for longer than the runs."""

    @asynccontextmanager
    async def out_of_sight(self) -> AsyncIterator[None]:
        self.engine.kill_dockerd()
        yield
        self.engine.restart()

    async def leftovers(self) -> list[str]:
        containers = docker(
            self.engine.socket, "ps", "--all", "--quiet", "--filter", f"label=org.overspill.agent={self.runs}"
        )
        return [*containers.split(), *(entry.name for entry in self.runs.iterdir() if entry.name != KEPT)]
