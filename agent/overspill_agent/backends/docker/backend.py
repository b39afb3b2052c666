"""`Backend` on this host's Docker engine: one container per attempt, found again by its name.

On disk, per run, all root's: for each attempt `attempt-N/` (see `run_files`), with `files/`, `control/` and `etc/`, and
`attempt-N.started`, which is written, durably, before the engine is asked to start the container. So an attempt whose
container is gone was never started where that file is missing, and was where it is there.

Steps of a start, each found again after a crash: directories (made anew), container (its name is unique; one that was
never started is removed), mark, start. Nothing here is needed in memory.
"""

from __future__ import annotations

import asyncio
import grp
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakValueDictionary

import structlog

from overspill.errors import AdminError, ExhaustedError, OverspillError, UnavailableError, UnrunnableError
from overspill_agent.backends.base import Account, Demand, Launch, check_features
from overspill_agent.backends.docker import identity, reading
from overspill_agent.backends.docker.container import container_body, container_name
from overspill_agent.backends.docker.engine import Engine
from overspill_agent.backends.docker.images import KEPT, Images, TriedImage
from overspill_agent.backends.docker.places import Places, places
from overspill_agent.backends.docker.reading import EngineFacts, RefusedError
from overspill_agent.backends.docker.site import DockerSite
from overspill_agent.backends.run_files import make_control, make_private, read_runner, remove_tree, start_error
from overspill_agent.capacity import Capacity, Slot
from overspill_agent.runs import Seen, Sighting

log = structlog.get_logger(__name__)

_LOG_TAIL_LINES = 10
_LOG_TAIL_CHARACTERS = 500
#: The runner's own exit codes that are nobody's failure, and that of a container which was killed.
_EXPECTED_CODES = (0, 3, 4, 137)


class DockerBackend:
    """Needs root: the directories of runs are other users'."""

    def __init__(self, site: DockerSite) -> None:
        """Take up the site's directory.

        Raises:
            AdminError: not root, the runner is missing, or the directory cannot be used.
        """
        if os.geteuid() != 0:
            raise AdminError("the docker back end makes directories of other users: run the agent as root")
        try:
            site.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (site.directory / KEPT).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise AdminError(f"cannot use {site.directory}: {error.strerror}; correct [docker] directory") from error
        runner = read_runner(site.runner, "docker")
        self._site = site
        self._runner = runner
        self._rm = shutil.which("rm") or "/bin/rm"
        self._engine = Engine(site.socket)
        self._images = Images(self._engine, site.rules, site.directory, runner)
        self._events = self._engine.follow(site.rules.agent)
        self._facts: EngineFacts | None = None
        self._callback: Callable[[str], None] = lambda _run_id: None
        self._starts: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._choosing_gpus = asyncio.Lock()
        self._told: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Remove what tried images and was left behind, and begin to follow the engine.

        Raises:
            AdminError: the engine is rootless, or does not have the network.
        """
        loop = asyncio.get_running_loop()
        try:
            facts = await self.look()
            await self._images.open()
            self._facts = facts
        except UnavailableError as error:
            log.warning("container engine is away", action="engine_away", socket=self._site.socket, reason=error.reason)
        self._events.start(
            lambda facts: _tell(loop, self._connected, facts), lambda event: _tell(loop, self._happened, event)
        )

    async def look(self) -> EngineFacts:
        """Return what the engine is, and change nothing.

        Raises:
            AdminError: it is rootless, or does not have the network.
            UnavailableError: it is away.
        """
        facts = await self._engine.facts()
        if facts.is_rootless:
            raise AdminError(
                f"the engine at {self._site.socket} is rootless and can run nothing as other users:"
                " name a rootful engine's in [docker] socket"
            )
        network = self._site.rules.network
        if not await self._engine.has_network(network):
            raise AdminError(
                f"the engine has no network {network!r}: docker network create {network}, or correct [docker] network"
            )
        return facts

    def capacity(self) -> Capacity:
        if self._facts is None:
            return Capacity()
        resources = self._site.resources
        slot = Slot(self._facts.machine.name, resources, resources, self._site.gpu_type.lower())
        return Capacity((slot,), features=self._site.features)

    async def check(self, demand: Demand) -> None:
        """Refuse a feature that is not offered, and an image that is missing or cannot run the runner.

        Raises:
            UnrunnableError: says which.
            UnavailableError: the image is being fetched, or the engine is away.
        """
        check_features(demand, self._site.features)
        await self._image_of(demand)

    async def start(self, launch: Launch) -> None:
        """Create and start the attempt's container, unless one of it was ever started.

        Raises:
            UnrunnableError: the image is missing or unfit.
            ExhaustedError: the engine's host is short of disk, memory or GPUs.
            UnavailableError: the engine does not answer; the attempt may have been started, `observe` tells.
            AdminError: the engine cannot start it as it is configured.
        """
        lock = self._starts.setdefault(launch.run_id, asyncio.Lock())
        async with lock:
            if await self._was_started(launch):
                return
            image = await self._image_of(launch.demand)
            try:
                await self._create(launch, image)
                await asyncio.to_thread(_mark, self._mark_of(launch.run_id, launch.attempt))
                await self._engine.start(container_name(launch.run_id, launch.attempt))
            except OSError as error:
                raise start_error(error) from error

    async def stop(self, run_id: str, attempt: int) -> None:
        await self._engine.kill(container_name(run_id, attempt))

    async def observe(self, run_id: str, attempt: int) -> Sighting:
        """Tell what is left of the attempt. A container that was never started is removed: it never will be."""
        container = await self._engine.inspect(container_name(run_id, attempt))
        machine = self._facts.machine.name if self._facts else ""
        if container is not None and container.was_started:
            return reading.sighting(container, machine)
        lock = self._starts.get(run_id)
        if lock is not None and lock.locked():
            return Sighting(Seen.ALIVE, machine=machine)
        if container is not None:
            await self._remove_unstarted(run_id, attempt)
            return Sighting(Seen.NOTHING)
        if await asyncio.to_thread(self._mark_of(run_id, attempt).exists):
            return reading.sighting_of_removed(machine)
        return Sighting(Seen.NOTHING)

    async def forget(self, run_id: str) -> None:
        """Remove the run's containers and directories.

        Raises:
            UnavailableError: something is left; it may go at the next try.
        """
        for container in await self._engine.containers(self._site.rules.agent, run_id):
            await self._remove(container.container_id)
        await asyncio.to_thread(remove_tree, self._rm, self._directory(run_id))

    async def run_ids(self) -> frozenset[str]:
        found = set(await asyncio.to_thread(_directories_in, self._site.directory))
        containers = await self._engine.containers(self._site.rules.agent)
        return frozenset(found.union(container.run_id for container in containers if container.run_id))

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callback = callback

    async def close(self) -> None:
        """Let go of the engine; containers live on and are found again by their names."""
        await asyncio.to_thread(self._events.close)
        await self._images.close()
        for task in self._told:
            task.cancel()
        self._engine.close()

    # Starting

    async def _image_of(self, demand: Demand) -> TriedImage:
        if demand.image is None:
            raise UnrunnableError("this site has no image for the job: its catalogue names none for its partition")
        return await self._images.ready(demand.image)

    async def _was_started(self, launch: Launch) -> bool:
        """Tell whether the attempt ever ran, and remove what is left of a start that did not come so far."""
        container = await self._engine.inspect(container_name(launch.run_id, launch.attempt))
        if container is None:
            return await asyncio.to_thread(self._mark_of(launch.run_id, launch.attempt).exists)
        if not container.was_started:
            await self._remove_unstarted(launch.run_id, launch.attempt)
        return container.was_started

    async def _remove_unstarted(self, run_id: str, attempt: int) -> None:
        """Remove a container, then the mark that it might have been started: a crash between leaves it marked.

        Raises:
            UnavailableError: it is being started after all, as somebody has asked who is dead; or it is being removed.
        """
        await self._remove(container_name(run_id, attempt), even_alive=False)
        await asyncio.to_thread(self._mark_of(run_id, attempt).unlink, missing_ok=True)

    async def _remove(self, name: str, *, even_alive: bool = True) -> None:
        try:
            await self._engine.remove(name, even_alive=even_alive)
        except RefusedError as refused:
            if refused.is_conflict:
                raise UnavailableError(
                    f"the container {name} cannot be removed yet: {refused.explanation}"
                ) from refused
            raise

    async def _create(self, launch: Launch, image: TriedImage) -> None:
        wanted = tuple(map(PurePosixPath, (launch.script_directory, *launch.directories)))
        where = places(self._site.private, self._site.shared, wanted)
        own = self._directory(launch.run_id) / f"attempt-{launch.attempt}"
        await asyncio.to_thread(self._make_directories, own, launch, image, where)
        facts = self._facts or await self._engine.facts()
        async with self._choosing_gpus:
            gpus = await self._free_gpus(launch.demand.resources.gpus)
            body = container_body(
                launch,
                self._site.rules,
                facts.machine,
                image_id=image.image_id,
                directory=own,
                places=where,
                gpus=gpus,
            )
            await self._engine.create(container_name(launch.run_id, launch.attempt), body)

    def _make_directories(self, own: Path, launch: Launch, image: TriedImage, where: Places) -> None:
        """Make the attempt's directory, anew if a start has failed before."""
        if os.path.lexists(own):
            remove_tree(self._rm, own)
        own.mkdir(mode=0o700, parents=True)
        make_private(own / "files", where.directories, launch.account)
        make_control(own / "control", launch, {"runner.py": self._runner, **image.compiled})
        _make_identity(own / "etc", launch.account, image)

    async def _free_gpus(self, count: int) -> tuple[str, ...]:
        """Return devices that no container has which lives or may still be started.

        Raises:
            ExhaustedError: there are not so many.
        """
        if not count:
            return ()
        containers = await self._engine.containers(self._site.rules.agent)
        taken = {gpu for container in containers if not container.is_over for gpu in container.gpus}
        free = [gpu for gpu in self._site.gpus if gpu not in taken]
        if len(free) < count:
            raise ExhaustedError(f"{count} GPUs are asked for, and {len(free)} are free")
        return tuple(free[:count])

    def _directory(self, run_id: str) -> Path:
        return self._site.directory / run_id

    def _mark_of(self, run_id: str, attempt: int) -> Path:
        return self._directory(run_id) / f"attempt-{attempt}.started"

    # Events

    def _connected(self, facts: EngineFacts | None) -> None:
        """Take note that the engine is there, or is not; nobody knows what has happened while it was not."""
        self._facts = facts
        if facts is not None:
            log.info("container engine is there", action="engine_connected", machine=facts.machine.name)
            for run_id in _directories_in(self._site.directory):
                self._callback(run_id)

    def _happened(self, event: Mapping[str, Any]) -> None:
        run_id = reading.run_of_event(event, self._site.rules.agent)
        if not run_id:
            return
        code = reading.exit_code_of_event(event)
        if code is not None and code not in _EXPECTED_CODES:
            task = asyncio.create_task(self._say_why(run_id, event["Actor"]["ID"], code), name=f"why {run_id}")
            self._told.add(task)
            task.add_done_callback(self._told.discard)
        self._callback(run_id)

    async def _say_why(self, run_id: str, container_id: str, code: int) -> None:
        """Log what a failed runner has said last."""
        output = b""
        with suppress(OverspillError):  # it is removed, or the engine is away: the code is still told
            output = await self._engine.output(container_id, is_error=True, lines=_LOG_TAIL_LINES)
        tail = output.decode("utf-8", "replace")[-_LOG_TAIL_CHARACTERS:]
        log.warning("runner failed", action="runner_failed", run_id=run_id, exit_code=code, output=tail)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[Any], None], what: object) -> None:
    """Call back on the event loop, from another thread, if the loop still runs."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, what)


def _directories_in(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir() if entry.is_dir() and entry.name != KEPT]


def _mark(path: Path) -> None:
    """Make a file that survives a loss of power, with its directories."""
    path.touch(exist_ok=False)
    for directory in (path.parent, path.parent.parent):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_identity(etc: Path, account: Account, image: TriedImage) -> None:
    names = {}
    for gid in (account.gid, *account.groups):
        with suppress(KeyError):
            names[gid] = grp.getgrgid(gid).gr_name
    etc.mkdir(mode=0o755)
    for name, content in (
        ("passwd", identity.passwd(image.passwd, account)),
        ("group", identity.group(image.group, account, names)),
    ):
        (etc / name).write_text(content)
        (etc / name).chmod(0o644)
