"""Runs on the agent's own host: each runner is PID 1 of its own PID namespace, in a view of the host made for it.

On disk, per run, all root's: `launch.log`, and for each attempt `attempt-N.lock` (see `attempt`) and `attempt-N/` with
`files/` (the run's private directories) and `control/` (the runner, its token and its CA; the only part that is the
user's and that the run sees as such). Root makes what is in there before the attempt starts and never writes there
again: what a job has left could lead anywhere. Nothing here is needed in memory: a restarted agent finds every run by
its directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import structlog

from overspill.errors import AdminError, UnavailableError, UnrunnableError
from overspill_agent.backends import attempt as attempts
from overspill_agent.backends.base import Demand, Launch, check_features
from overspill_agent.backends.bwrap import Programs, bwrap_argv, device_mounts, in_cgroups
from overspill_agent.backends.cgroups import Limits, cgroups_of
from overspill_agent.backends.devices import Devices, Gpus
from overspill_agent.backends.host import Host
from overspill_agent.backends.run_files import (
    ENVIRONMENT,
    make_control,
    make_private,
    memory_limit_mib,
    read_runner,
    remove_tree,
    start_error,
)
from overspill_agent.backends.sandbox import Roots, Sandbox, Wanted, build
from overspill_agent.capacity import Capacity, Slot
from overspill_agent.runs import Resources, Seen, Sighting

log = structlog.get_logger(__name__)

_COMPILE = (
    "import py_compile as c, sys;"
    "c.compile(sys.argv[1], doraise=True, invalidation_mode=c.PycInvalidationMode.UNCHECKED_HASH)"
)
_LOG_TAIL_BYTES = 500
#: bubblewrap's exit code where PID 1 was killed: by `stop`, most likely.
_KILLED = 128 + signal.SIGKILL


@dataclass(frozen=True, slots=True)
class LocalSite:
    """What the operator has decided.

    Attributes:
        directory: one directory per run is made here; on a local file system.
        resources: what all runs together may ask for.
        roots: what runs see.
        python: interpreter for the runner.
        runner: the runner's file.
        limits: whether runs get no more CPUs and memory than they asked for.
        gpus: as many as `resources` says.
        features: words of --constraint that runs here satisfy.
    """

    directory: Path
    resources: Resources
    roots: Roots
    python: Path
    runner: Path
    limits: Limits = Limits.BEST_EFFORT
    gpus: Gpus = field(default_factory=Gpus)
    features: frozenset[str] = frozenset()


class LocalBackend:
    """`Backend` on this host. Needs root: runs are other users' processes.

    Runs have their own processes, files and System V IPC, but the host's network: what listens on a port or on an
    abstract Unix socket can be reached by every run.
    """

    def __init__(self, site: LocalSite) -> None:
        """Take up the site's directory, with whatever runs there.

        Raises:
            AdminError: not root, a program or the runner is missing, the directory cannot be used, or limits are to be
                enforced and cannot be.
        """
        if os.geteuid() != 0:
            raise AdminError("the local backend starts processes of other users: run the agent as root")
        try:
            site.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AdminError(f"cannot use {site.directory}: {error.strerror}; correct [local] directory") from error
        self._site = site
        self._programs = Programs.find()
        self._runner = _compiled(site)
        self._callback: Callable[[str], None] = lambda _run_id: None
        self._machine = socket.gethostname()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._starts: set[asyncio.Task[None]] = set()
        self._identity = _identity(site.directory)
        #: Attempts whose start found no directory to begin in.
        self._never_begun: set[tuple[str, int]] = set()
        self._cgroups = cgroups_of(site.limits)
        self._devices = Devices(site.directory, site.gpus)

    async def open(self) -> None:
        """Do nothing: what is there is on disk, and is looked at when it is asked for."""

    def capacity(self) -> Capacity:
        resources = self._site.resources
        slot = Slot(self._machine, resources, resources, self._site.gpus.gpu_type)
        return Capacity((slot,), features=self._site.features)

    async def check(self, demand: Demand) -> None:
        """Refuse what needs more than one workstation has.

        Raises:
            UnrunnableError: it asks for a feature or an image.
        """
        if demand.image is not None:
            raise UnrunnableError(f"this site runs jobs on its own host, and so has no image {demand.image.name!r}")
        check_features(demand, self._site.features)

    async def start(self, launch: Launch) -> None:
        """Start the runner, unless this attempt has been started before.

        Raises:
            ExhaustedError: the host is short of disk, memory or processes; nothing was started.
            AdminError: something on it is missing or closed to the agent; likewise.
        """
        # It goes on if its caller is cancelled: what it starts by then is a child to be let go of.
        task = asyncio.create_task(self._start_and_watch(launch), name="start")
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)
        await asyncio.shield(task)

    async def _start_and_watch(self, launch: Launch) -> None:
        try:
            process = await asyncio.to_thread(self._start, launch)
        except OSError as error:
            raise start_error(error) from error
        if process is not None:
            self._watch(launch.run_id, process)

    async def stop(self, run_id: str, attempt: int) -> None:
        """Kill the attempt.

        Raises:
            UnavailableError: its directory cannot be seen.
        """
        await asyncio.to_thread(self._kill, run_id, attempt)

    def _kill(self, run_id: str, attempt: int) -> None:
        with self._seeing():
            attempts.kill(self._lock(run_id, attempt))

    async def observe(self, run_id: str, attempt: int) -> Sighting:
        """Look at the attempt's lock.

        Raises:
            UnavailableError: its directory cannot be seen.
        """
        if (run_id, attempt) in self._never_begun:
            return Sighting(Seen.NOTHING)
        with self._seeing():
            return Sighting(attempts.seen(self._lock(run_id, attempt)), machine=self._machine)

    async def forget(self, run_id: str) -> None:
        """Remove all of the run.

        Raises:
            UnavailableError: something is left; it may go at the next try.
        """
        await asyncio.to_thread(self._forget, run_id)
        self._never_begun = {key for key in self._never_begun if key[0] != run_id}

    def _forget(self, run_id: str) -> None:
        if self._cgroups is not None:
            self._cgroups.remove(self._cgroups.of_run(run_id))
        remove_tree(self._programs.rm, self._directory(run_id))

    async def run_ids(self) -> frozenset[str]:
        """Return the runs that have a directory.

        Raises:
            UnavailableError: it cannot be told.
        """
        return await asyncio.to_thread(self._run_ids)

    def _run_ids(self) -> frozenset[str]:
        with self._seeing():
            return frozenset(entry.name for entry in self._site.directory.iterdir() if entry.is_dir())

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callback = callback

    async def close(self) -> None:
        """Let go of the children; they live on and are found again by their locks."""
        await asyncio.gather(*self._starts, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for descriptor, process in self._children.items():
            loop.remove_reader(descriptor)
            os.close(descriptor)
            # The process is not ours to wait for any more; a destructor that says so would be wrong.
            process.returncode = 0
        self._children.clear()

    def _directory(self, run_id: str) -> Path:
        return self._site.directory / run_id

    def _lock(self, run_id: str, attempt: int) -> Path:
        return attempts.lock_path(self._directory(run_id), attempt)

    @contextlib.contextmanager
    def _seeing(self) -> Iterator[None]:
        """Look at the runs' directory, or at what should be it: where it is not mounted, no run has a lock there.

        Raises:
            UnavailableError: it is another one than when this agent started, or cannot be read.
        """
        try:
            if _identity(self._site.directory) != self._identity:
                raise UnavailableError(f"{self._site.directory} is not the directory that it was; is it mounted?")
            yield
        except OSError as error:
            raise UnavailableError(f"cannot look at {error.filename or 'runs'}: {error.strerror}") from error

    def _start(self, launch: Launch) -> subprocess.Popen[bytes] | None:
        directory = self._directory(launch.run_id)
        try:
            with self._seeing():
                pass
        except UnavailableError as error:
            # Nothing of it is anywhere, and no retry mends that: where it could not be told, it would wait for ever.
            self._never_begun.add((launch.run_id, launch.attempt))
            raise AdminError(f"cannot start a run: {error.reason}") from error
        directory.mkdir(mode=0o700, exist_ok=True)
        with attempts.claimed(self._lock(launch.run_id, launch.attempt)) as lock:
            if lock is None:
                return None
            own = directory / f"attempt-{launch.attempt}"
            # A start may have failed before its first process.
            if os.path.lexists(own):
                remove_tree(self._programs.rm, own)
            own.mkdir(mode=0o700)
            gpus = self._devices.give(directory, launch.attempt, launch.demand.resources.gpus)
            sandbox = self._sandbox(launch, own)
            sandbox.mounts += device_mounts(self._site.gpus.files_of(gpus))
            make_private(own / "files", sandbox.private_directories, launch.account)
            make_control(own / "control", launch, self._runner)
            argv = bwrap_argv(self._programs, self._site.python, launch, sandbox, lock)
            if self._cgroups is not None:
                files = self._cgroups.make(f"{launch.run_id}-{launch.attempt}", self._limits(launch.demand.resources))
                argv = in_cgroups(self._programs, files, argv)
            devices = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
            with (directory / "launch.log").open("ab") as output:
                return subprocess.Popen(
                    argv,
                    pass_fds=(lock.monitor, lock.init),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=ENVIRONMENT | devices,
                    cwd="/",
                    start_new_session=True,
                    umask=0o022,
                )

    def _limits(self, wanted: Resources) -> Resources:
        return replace(wanted, memory_mib=memory_limit_mib(wanted.memory_mib, self._site.resources.memory_mib))

    def _sandbox(self, launch: Launch, own: Path) -> Sandbox:
        wanted = Wanted(
            PurePosixPath(launch.script_directory), tuple(PurePosixPath(path) for path in launch.directories)
        )
        files, control = PurePosixPath(own / "files"), PurePosixPath(own / "control")
        return build(Host(), self._site.roots, wanted, files=files, control=control)

    def _watch(self, run_id: str, process: subprocess.Popen[bytes]) -> None:
        """Wake up when the child ends; adopted ones are nobody's children and are seen at the next look."""
        descriptor = os.pidfd_open(process.pid)
        self._children[descriptor] = process
        asyncio.get_running_loop().add_reader(descriptor, self._reap, run_id, descriptor)

    def _reap(self, run_id: str, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        process = self._children.pop(descriptor)
        if process.wait() not in (0, _KILLED):
            log.warning("runner failed", action="runner_failed", run_id=run_id, output=self._log_tail(run_id))
        self._callback(run_id)

    def _log_tail(self, run_id: str) -> str:
        with contextlib.suppress(FileNotFoundError), (self._directory(run_id) / "launch.log").open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return output.read(_LOG_TAIL_BYTES).decode("utf-8", "replace")
        return ""


def _identity(directory: Path) -> tuple[int, int]:
    found = directory.stat()
    return found.st_dev, found.st_ino


def _compiled(site: LocalSite) -> Mapping[str, bytes]:
    """Return the runner's files: its source, and what the site's Python makes of it, which saves each run to do so.

    The name of the compiled file says for which Python it is: another one takes the source.
    """
    source = read_runner(site.runner, "local")
    with tempfile.TemporaryDirectory(dir=site.directory) as name:
        copy = Path(name) / "runner.py"
        copy.write_bytes(source)
        argv = [str(site.python), "-I", "-S", "-c", _COMPILE, str(copy)]
        done = subprocess.run(argv, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        compiled = {f"__pycache__/{file.name}": file.read_bytes() for file in Path(name).glob("__pycache__/*.pyc")}
    if not compiled:
        output = done.stderr[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")
        log.warning("runner is not compiled", action="runner_not_compiled", python=str(site.python), output=output)
    return {"runner.py": source, **compiled}
