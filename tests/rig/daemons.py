"""The daemons of a rig: how each is started, how one knows that it is ready, and the verbs that tests have for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.errors import DaemonError
from tests.rig.host import Host
from tests.rig.overspill_conf import (
    AGENT_CONF,
    AGENT_PORT,
    RELAY_SOCKET,
    ROUTER_SOCKET,
    RUNNER_PORT,
    SECOND_AGENT_CONF,
    SECOND_AGENT_PORT,
    SECOND_RUNNER_PORT,
    SIDECAR_CONF,
)
from tests.rig.slurm_conf import ACCOUNTING_PORT, CONTROLLER_PORT
from tests.rig.waiting import poll

_LOG_TAIL_LINES = 25
#: Where libmariadb looks for the socket.
_DATABASE_SOCKET = "/run/mysqld/mysqld.sock"
#: Neither this machine's configuration, nor more memory than a few tables need.
DATABASE_OPTIONS = ("--no-defaults", "--datadir=/var/lib/mysql", "--innodb-buffer-pool-size=16M")


@dataclass(frozen=True, slots=True)
class DaemonSpec:
    """What there is to know about a daemon before it runs."""

    name: str
    argv: tuple[str, ...]
    pid_file: str
    log_file: str
    #: TCP ports and Unix socket paths that it accepts connections on once it is ready.
    listens_on: tuple[int | str, ...]
    user: str = "root"
    env: Mapping[str, str] = field(default_factory=dict)


class Daemon:
    """One daemon on one host, running or not."""

    def __init__(self, spec: DaemonSpec, host: Host) -> None:
        self.name = spec.name
        self.host = host
        self._spec = spec

    @property
    def pid(self) -> int | None:
        """Its process id seen from outside the host, None if it does not run."""
        try:
            inside = int(self.host.path(self._spec.pid_file).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return self.host.processes().get(inside)

    @property
    def is_running(self) -> bool:
        """Whether its process exists, be it stopped or not yet ready."""
        return self.pid is not None

    @property
    def is_ready(self) -> bool:
        """Whether its process exists and accepts connections."""
        return self.is_running and all(self.host.is_listening(address) for address in self._spec.listens_on)

    def launch(self, *, clock_error_s: int = 0) -> None:
        """Start its process without waiting for it to be ready.

        Args:
            clock_error_s: by how much its wall clock is ahead of the host's; its monotonic clock is right.

        Raises:
            DaemonError: if it runs already or says at once that it cannot.
        """
        if self.is_running:
            raise DaemonError(f"{self.name} runs already")
        self.host.path(self._spec.pid_file).unlink(missing_ok=True)
        result = self.host.run(
            self._spec.argv, user=self._spec.user, cwd="/", env={**self._spec.env, **_wrong_clock(clock_error_s)}
        )
        if result.returncode != 0:
            raise DaemonError(
                f"{self.name}: exit code {result.returncode}\n{result.stdout}{result.stderr}{self.log_tail()}"
            )

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return as soon as it accepts connections.

        Raises:
            DaemonError: with the end of its log, if it dies meanwhile or takes longer than `timeout_s`.
        """
        was_seen = False

        def is_ready_or_dead() -> bool:
            nonlocal was_seen
            is_running = self.is_running
            if was_seen and not is_running:
                raise DaemonError(f"{self.name} died while starting\n{self.log_tail()}")
            was_seen = is_running
            return self.is_ready

        if not poll(is_ready_or_dead, timeout_s=timeout_s):
            what = "is not ready" if was_seen else "did not start"
            raise DaemonError(f"{self.name} {what} after {timeout_s} s\n{self.log_tail()}")

    def start(self, *, clock_error_s: int = 0) -> None:
        """Start it and wait until it is ready; arguments as for `launch`."""
        self.launch(clock_error_s=clock_error_s)
        self.wait_until_ready()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process, and return when a SIGKILL or a SIGSTOP has been obeyed.

        Raises:
            DaemonError: if it does not run, or has not obeyed after 30 s.
        """
        pid = self.pid
        if pid is None:
            raise DaemonError(f"{self.name} does not run")
        os.kill(pid, number)
        if number == signal.SIGKILL:
            self._wait_until_gone(timeout_s=30.0)
        elif number == signal.SIGSTOP and not poll(lambda: _is_stopped(pid), timeout_s=30.0):
            raise DaemonError(f"{self.name} did not stop within 30 s\n{self.log_tail()}")

    def stop(self) -> None:
        """Ask it to end (SIGTERM), also if a SIGSTOP holds it, and wait until it has. Idempotent.

        Raises:
            DaemonError: if it has not ended after 30 s.
        """
        if self.is_running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self._wait_until_gone(timeout_s=30.0)

    def log_tail(self) -> str:
        """Return the last lines of its log under a heading."""
        log = self.host.path(self._spec.log_file)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else ["(there is none)"]
        return "\n".join([f"--- {log}", *lines[-_LOG_TAIL_LINES:]])

    def _wait_until_gone(self, timeout_s: float) -> None:
        if not poll(lambda: not self.is_running, timeout_s=timeout_s):
            raise DaemonError(f"{self.name} did not end within {timeout_s} s\n{self.log_tail()}")


class DaemonGroup:
    """Daemons that a test stops, starts and signals as if they were one."""

    def __init__(self, daemons: Sequence[Daemon]) -> None:
        self._daemons = tuple(daemons)

    @property
    def is_ready(self) -> bool:
        """Whether all of them are."""
        return all(daemon.is_ready for daemon in self._daemons)

    def start(self) -> None:
        """Start them side by side and wait until all are ready."""
        for daemon in self._daemons:
            daemon.launch()
        for daemon in self._daemons:
            daemon.wait_until_ready()

    def signal(self, number: signal.Signals) -> None:
        """Send each a signal."""
        for daemon in self._daemons:
            daemon.signal(number)

    def stop(self) -> None:
        """Stop one after the other. Idempotent."""
        for daemon in self._daemons:
            daemon.stop()


def _is_stopped(pid: int) -> bool:
    """Return whether all threads are stopped: the first one tells the others, once it has a CPU."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread has ended meanwhile
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def _wrong_clock(error_s: int) -> dict[str, str]:
    """Return what makes libfaketime lie to a program and to what it starts."""
    if not error_s:
        return {}
    (library,) = Path("/usr/lib").glob("*-linux-gnu/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{error_s:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def munged() -> DaemonSpec:
    return DaemonSpec(
        name="munged",
        argv=("munged",),
        user="munge",
        pid_file="/run/munge/munged.pid",
        log_file="/var/log/munge/munged.log",
        listens_on=("/run/munge/munge.socket.2",),
    )


def slurmctld() -> DaemonSpec:
    return DaemonSpec(
        name="slurmctld",
        argv=("slurmctld",),
        pid_file="/run/slurmctld.pid",
        log_file="/var/log/slurm/slurmctld.log",
        listens_on=(CONTROLLER_PORT,),
    )


def mariadbd() -> DaemonSpec:
    """Describe the database of slurmdbd, reached by its socket only; it belongs to slurm, as whom slurmdbd runs."""
    return background_daemon(
        "mariadbd",
        "slurm",
        "/var/log/overspill/mariadbd.log",
        (_DATABASE_SOCKET,),
        ("/usr/sbin/mariadbd", *DATABASE_OPTIONS, "--skip-networking", f"--socket={_DATABASE_SOCKET}"),
    )


def slurmdbd() -> DaemonSpec:
    return DaemonSpec(
        name="slurmdbd",
        argv=("slurmdbd",),
        pid_file="/run/slurmdbd.pid",
        log_file="/var/log/slurm/slurmdbd.log",
        listens_on=(ACCOUNTING_PORT,),
    )


def slurmd(node: str, port: int) -> DaemonSpec:
    return DaemonSpec(
        name=f"slurmd@{node}",
        argv=("slurmd", "-N", node),
        pid_file=f"/run/slurmd-{node}.pid",
        log_file=f"/var/log/slurm/slurmd-{node}.log",
        listens_on=(port,),
    )


def router() -> DaemonSpec:
    # As its systemd unit does: who waits for it is slurmctld, under its locks.
    before_others = ("--nicelevel", "-5")
    return _sidecar("router", ROUTER_SOCKET, before_others)


def relay() -> DaemonSpec:
    return _sidecar("relay", RELAY_SOCKET)


def _sidecar(role: str, socket: str, scheduling: tuple[str, ...] = ()) -> DaemonSpec:
    return _overspill_daemon(role, "overspill_sidecar", SIDECAR_CONF, "slurm", (socket,), ("--role", role), scheduling)


def agent() -> DaemonSpec:
    return _overspill_daemon("agent", "overspill_agent", AGENT_CONF, "root", (AGENT_PORT, RUNNER_PORT))


def second_agent() -> DaemonSpec:
    ports = (SECOND_AGENT_PORT, SECOND_RUNNER_PORT)
    return _overspill_daemon("agent-b", "overspill_agent", SECOND_AGENT_CONF, "root", ports)


def _overspill_daemon(
    name: str,
    module: str,
    configuration: str,
    user: str,
    listens_on: tuple[int | str, ...],
    options: tuple[str, ...] = (),
    scheduling: tuple[str, ...] = (),
) -> DaemonSpec:
    program = ("/opt/overspill/venv/bin/python", "-m", module, "run", "--config", configuration, *options)
    environment = {"PYTHONPATH": "/opt/overspill/lib"}
    log_file = f"/var/log/overspill/{name}.log"
    return background_daemon(name, user, log_file, listens_on, program, environment, scheduling)


def background_daemon(
    name: str,
    user: str,
    log_file: str,
    listens_on: tuple[int | str, ...],
    program: tuple[str, ...],
    env: Mapping[str, str] | None = None,
    scheduling: tuple[str, ...] = (),
) -> DaemonSpec:
    """Describe a program that stays in the foreground; start-stop-daemon puts it into the background."""
    pid_file = f"/run/{name}.pid"
    background = ("start-stop-daemon", "--start", "--background", "--make-pidfile", "--pidfile", pid_file)
    how = ("--output", log_file, "--chuid", user, *scheduling, "--startas", program[0], "--", *program[1:])
    return DaemonSpec(
        name=name,
        argv=(*background, *how),
        pid_file=pid_file,
        log_file=log_file,
        listens_on=listens_on,
        env=env or {},
    )
