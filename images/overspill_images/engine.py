"""A Docker engine of one's own: it needs nothing but root, changes nothing on the machine, and ends with its program.

dockerd runs in a mount and a PID namespace. PID 1 of them is told by the kernel to die with the program that started
it, and everything in a PID namespace dies with its PID 1: dockerd, containerd, every container and every mount.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from overspill_images import cgroups
from overspill_images.process import lines, run

#: Where dockerd and containerd keep sockets; containerd's shims have no other place. Private to each engine.
_RUN = "/run/containerd"
_NAMESPACES = ("--mount", "--pid")
#: PID 1 of an engine: says its pid outside (/proc is still the outer one), then only reaps orphans.
_PID_1 = f"""
set -e
read -r pid rest < /proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs {_RUN}
echo "$pid"
exec docker-init -- sleep infinity >&2
"""
_PROGRAMS = ("dockerd", "containerd", "runc", "docker", "docker-init", "unshare", "nsenter", "setpriv")
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.05
_LOG_TAIL_CHARACTERS = 2000
#: Without a bridge and rules of its own the machine's network stays as it is; containers use the machine's, or none.
_MACHINES_NETWORK = {"bridge": "none", "iptables": False, "ip6tables": False, "ip-forward": False, "ip-masq": False}


class EngineError(Exception):
    """The engine did not do what was asked; the message says what to do about it."""


def daemon_json(
    *, data: str, socket: str, pid_file: str, exec_root: str, init_pid: int, more: Mapping[str, object]
) -> str:
    """Return the configuration of a dockerd that has nothing outside these paths.

    Args:
        data: its images and containers; on a real file system.
        socket: where it listens.
        pid_file: where it writes its process id, as of its own PID namespace.
        exec_root: what it keeps while it runs.
        init_pid: PID 1 of its namespaces as seen outside; all containers' cgroups are below one that is named by it.
        more: other keys of daemon.json.
    """
    keys = {"data-root": data, "hosts": [f"unix://{socket}"], "pidfile": pid_file, "exec-root": exec_root}
    cgroup = f"/{cgroups.name_of_engine(init_pid)}"
    # Containers outlive a dockerd that is killed.
    how = {"cgroup-parent": cgroup, "storage-driver": "overlay2", "live-restore": True}
    return json.dumps({**keys, **how, **more})


def docker(socket: Path, *argv: str) -> str:
    """Execute Docker's command line tool against an engine and return its output.

    Raises:
        ChildProcessError: with the end of what it said.
    """
    return run(*_docker(socket), *argv, env=_docker_environment())


def docker_lines(socket: Path, *argv: str) -> Iterator[str]:
    """Execute Docker's command line tool and yield what it writes, line by line; errors as of `docker`."""
    return lines(*_docker(socket), *argv, env=_docker_environment())


def _docker(socket: Path) -> tuple[str, ...]:
    return ("docker", "--host", f"unix://{socket}")


def _docker_environment() -> dict[str, str]:
    # Debian's engine has the classic builder only. And nothing of what this machine's user has set up for another one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    return {**inherited, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": "/nonexistent"}


class Engine:
    """An engine on this machine's network, running until `stop`, or until this program ends in whatever way.

    Its containers use this machine's network (`--network host`) or none. Paths in bind mounts are this machine's.
    Usable as a context manager.
    """

    def __init__(self, directory: Path, *, kept_fds: tuple[int, ...] = ()) -> None:
        """Describe an engine; `start` starts it.

        Args:
            directory: holds its socket, its log, and what it has stored; on a real file system, not an overlay. Used by
                one engine at a time. A path of at most 90 bytes, because sockets' names are short.
            kept_fds: stay open (and locked) as long as anything of the engine lives.
        """
        self.socket = directory / "docker.sock"
        self.log = directory / "dockerd.log"
        self._directory = directory
        self._kept_fds = kept_fds
        self._holder: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None
        #: PID 1 of its namespaces, seen from outside; 0 before it was started.
        self.init_pid = 0

    def start(self) -> None:
        """Start it and return when it answers; nothing happens if it runs.

        Raises:
            EngineError: if programs are missing, or with the end of its log if it does not answer.
        """
        if self._holder is not None:
            return
        if os.geteuid() != 0:
            raise EngineError("a Docker engine needs root")
        if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
            raise EngineError(f"not installed: {', '.join(missing)}; run `make setup`")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._hold_namespaces()
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise

    def restart(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End dockerd by this signal and start it again; containers go on meanwhile."""
        self.kill_dockerd(number)
        self._launch()

    def kill_dockerd(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End dockerd alone by this signal; containers go on. `restart` brings it back. Idempotent."""
        if self._dockerd is None:
            return
        run(*self._inside, "kill", f"-{number.value}", self._pid_file.read_text())
        self._dockerd.wait(_STOP_TIMEOUT_S)
        self._dockerd = None

    def load(self, archive: Path) -> None:
        """Load what `docker save` has written: the images have the names that they had there."""
        docker(self.socket, "load", "--quiet", "--input", str(archive))

    def stop(self) -> None:
        """Kill it with all containers; what it has stored stays in its directory. Idempotent."""
        if self._holder is None:
            return
        # Not the holder: it ends when its child PID 1 has ended, and that when all of its namespace have.
        os.kill(self.init_pid, signal.SIGKILL)
        self._holder.wait()
        if self._dockerd is not None:
            self._dockerd.wait()
            self._dockerd = None
        cgroups.remove(cgroups.name_of_engine(self.init_pid))
        self._holder = None
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _pid_file(self) -> Path:
        return self._directory / "dockerd.pid"

    @property
    def _inside(self) -> tuple[str, ...]:
        return ("nsenter", f"--target={self.init_pid}", *_NAMESPACES, "--")

    def _hold_namespaces(self) -> None:
        Path(_RUN).mkdir(parents=True, exist_ok=True)
        cgroups.sweep()
        unshare = ("unshare", *_NAMESPACES, "--fork", "--kill-child", "sh", "-c", _PID_1)
        ready_read, ready_write = os.pipe()
        with self.log.open("ab") as log, os.fdopen(ready_write, "w") as ready:
            self._holder = subprocess.Popen(
                ("setpriv", "--pdeathsig=KILL", "--", *unshare),
                stdin=subprocess.DEVNULL,
                stdout=ready,
                stderr=log,
                pass_fds=self._kept_fds,
            )
        with os.fdopen(ready_read) as ready:
            reported = ready.readline()
        if not reported:
            self._holder.wait()
            self._holder = None
            raise EngineError(f"no namespaces for a Docker engine; {self.log} ends with:\n{self._log_tail()}")
        self.init_pid = int(reported)

    def _launch(self) -> None:
        paths = {"data": str(self._directory / "data"), "socket": str(self.socket), "exec_root": f"{_RUN}/docker"}
        configuration = self._directory / "daemon.json"
        configuration.write_text(
            daemon_json(**paths, pid_file=str(self._pid_file), init_pid=self.init_pid, more=_MACHINES_NETWORK)
        )
        # A pid file from before names a process of other namespaces.
        self._pid_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._dockerd = subprocess.Popen(
                (*self._inside, "dockerd", f"--config-file={configuration}"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            dockerd = self._dockerd
            if dockerd is None or dockerd.poll() is not None or time.monotonic() > deadline:
                raise EngineError(f"dockerd does not answer; {self.log} ends with:\n{self._log_tail()}")
            try:
                docker(self.socket, "version")
            except ChildProcessError:
                time.sleep(_POLL_S)
            else:
                return

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
