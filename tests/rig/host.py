"""One host of the rig: a set of Linux namespaces with its own file system, held by `host_init.py`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, overload

from tests.rig.accounts import login_environment, numbers_of
from tests.rig.errors import CommandError, RigError
from tests.rig.files import replace_file, rewrite_file

if TYPE_CHECKING:
    from tests.rig.daemons import Daemon, DaemonGroup

_INIT = Path(__file__).with_name("host_init.py")
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
_TCP_LISTEN = "0A"
_UNIX_ACCEPTS_CONNECTIONS = 0x10000  # SO_ACCEPTCON; source: proc(5), /proc/net/unix


class Host:
    """A running host. `run` acts inside it; `path` and `write` reach its files from outside."""

    def __init__(
        self, name: str, root: Path, *, init_pid: int, pid_namespace: str, holder: subprocess.Popen[bytes] | None = None
    ) -> None:
        """Represent a host that was started; use `start` to start one.

        Args:
            name: its UTS name.
            root: its directory tree, seen from outside.
            init_pid: its PID 1, seen from outside.
            pid_namespace: the name of its PID namespace, by which a reused pid is told from the real PID 1.
            holder: the parent of PID 1, if that is a child of this program.
        """
        self.name = name
        self.init_pid = init_pid
        self.pid_namespace = pid_namespace
        self.daemons: dict[str, Daemon] = {}
        self.groups: dict[str, DaemonGroup] = {}
        self._holder = holder
        self._root = root

    @classmethod
    def start(
        cls, name: str, root: Path, *, mounts: list[list[str]], lease: IO[bytes], kept_fds: tuple[int, ...]
    ) -> Host:
        """Start the host over the directory tree `root`.

        Args:
            name: also the host's UTS name.
            root: becomes the root of the host's file system.
            mounts: argument lists of mount(8), executed in order before `root` becomes the root.
            lease: read end of a pipe; when it ends without a byte, the host ends.
            kept_fds: inherited by PID 1: what is to stay open (and locked) as long as the host lives.

        Raises:
            RigError: if a namespace or a mount is refused; carries what mount(8) said.
        """
        log = root.with_name(f"{name}.init.log")
        ready_read, ready_write = os.pipe()
        spec = {
            "root": str(root),
            "hostname": name,
            "mounts": mounts,
            "lease_fd": lease.fileno(),
            "ready_fd": ready_write,
        }
        argv = ["unshare", *_NAMESPACES, "--fork", "--kill-child"]
        argv += ["/usr/bin/python3", "-I", "-S", str(_INIT), json.dumps(spec)]
        with log.open("wb") as output:
            holder = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
                pass_fds=(lease.fileno(), ready_write, *kept_fds),
            )
        os.close(ready_write)
        with os.fdopen(ready_read) as ready:
            reported = ready.readline()  # not read(): `unshare` keeps the pipe open
        pid_namespace = _pid_namespace(int(reported)) if reported else None
        if pid_namespace is None:
            holder.wait()
            raise RigError(f"host {name} did not come up:\n{log.read_text()}")
        return cls(name, root, init_pid=int(reported), pid_namespace=pid_namespace, holder=holder)

    @overload
    def daemon(self, name: Literal["sidecar"]) -> DaemonGroup: ...  # type: ignore[overload-overlap]  # one name of all
    @overload
    def daemon(self, name: str) -> Daemon: ...
    def daemon(self, name: str) -> Daemon | DaemonGroup:
        """Return the host's daemon of this name: munged, slurmctld, slurmd@c1, router, relay, agent, ...

        "sidecar" is router and relay together, a process each, as the packages install them.
        """
        return self.groups[name] if name in self.groups else self.daemons[name]

    def path(self, path: str) -> Path:
        """Return where the host's file `path` is, seen from outside.

        Valid after the host has ended, too. Not for what is mounted into it: /usr, /dev, /proc, /sys, /opt/overspill.
        """
        return self._root / path.lstrip("/")

    def write(self, path: str, content: str | bytes, *, user: str = "root", mode: int = 0o644) -> Path:
        """Write a file of the host in one step, owned by `user` and the user's group; return its path from outside."""
        target = self.path(path)
        replace_file(target, _encoded(content), owner=numbers_of(user), mode=mode)
        return target

    def rewrite(self, path: str, content: str | bytes) -> None:
        """Give a file another content in one step; owner and mode stay."""
        rewrite_file(self.path(path), _encoded(content))

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text in a file.

        Raises:
            RigError: if it is not there: a change that changes nothing tests nothing.
        """
        text = self.path(path).read_text()
        if old not in text:
            raise RigError(f"{path} of {self.name} has no {old!r}")
        self.rewrite(path, text.replace(old, new))

    def command(self, argv: Sequence[str], *, user: str = "root", cwd: str | None = None) -> list[str]:
        """Return the argv that executes `argv` inside, as `user`, in `cwd` (default: the user's home)."""
        directory = cwd if cwd is not None else login_environment(user)["HOME"]
        enter = ["nsenter", f"--target={self.init_pid}", *_NAMESPACES, f"--wdns={directory}", "--"]
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [*enter, *become, *argv]

    def write_callers(self, directory: Path, names: Sequence[str], *, user: str = "root") -> Path:
        """Write programs into a directory outside, each of which calls that of its name inside."""
        for name in names:
            inside = shlex.join(self.command([name], user=user, cwd="/"))
            (directory / name).write_text(f'#!/bin/sh\nexec {inside} "$@"\n')
            (directory / name).chmod(0o755)
        return directory

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 30.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Execute `argv` inside the host and return its exit code, output and error output.

        `env` is added to what a login sets. Bytes that are not UTF-8 arrive as surrogate escapes.

        `timeout` is in seconds, as in `subprocess.run`.

        Raises:
            CommandError: if the command, with everything it started, had to be killed after `timeout` seconds; with
                `check`, if it exited with another code than 0.
        """
        process = subprocess.Popen(
            self.command(argv, user=user, cwd=cwd),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=login_environment(user) | dict(env or {}),
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                # The whole session: killing only nsenter would leave the command running, and its pipes open.
                os.killpg(process.pid, signal.SIGKILL)
                stdout, stderr = process.communicate()
                raise CommandError(_describe(self.name, argv, f"killed after {timeout} s", stdout, stderr)) from None
        if check and process.returncode != 0:
            raise CommandError(_describe(self.name, argv, f"exit code {process.returncode}", stdout, stderr))
        return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)

    def processes(self) -> dict[int, int]:
        """Return the host's living processes: pid inside -> pid outside."""
        found = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and _pid_namespace(int(entry.name)) == self.pid_namespace:
                status = _status(int(entry.name))
                if status and not _is_over(status):
                    found[int(status["NSpid"].split()[-1])] = int(entry.name)
        return found

    def is_listening(self, address: int | str) -> bool:
        """Return whether somebody accepts connections on this TCP port or Unix socket path."""
        net = Path(f"/proc/{self.init_pid}/net")
        if isinstance(address, str):
            sockets = [line.split() for line in (net / "unix").read_text().splitlines()[1:]]
            return any(s[-1] == address and int(s[3], 16) & _UNIX_ACCEPTS_CONNECTIONS for s in sockets)
        lines = [line.split() for table in ("tcp", "tcp6") for line in (net / table).read_text().splitlines()[1:]]
        return any(line[3] == _TCP_LISTEN and int(line[1].rpartition(":")[2], 16) == address for line in lines)

    def kill(self) -> None:
        """Kill PID 1, and so everything in the host; nothing happens if the host has ended."""
        if _pid_namespace(self.init_pid) == self.pid_namespace:
            os.kill(self.init_pid, signal.SIGKILL)
        if self._holder is not None:
            self._holder.wait()


def _encoded(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _describe(host: str, argv: Sequence[str], what: str, stdout: str, stderr: str) -> str:
    return f"on {host}: {' '.join(argv)}: {what}\n{stdout}{stderr}".rstrip()


def _pid_namespace(pid: int) -> str | None:
    """Return the name of the process's PID namespace, None if it is gone, a zombie or not ours to look into."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - its target is no path
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _is_over(status: Mapping[str, str]) -> bool:
    """Return whether nothing of the process is left: its first thread may be a zombie while others hold its sockets."""
    return status["State"].startswith("Z") and status["Threads"] == "1"


def _status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status, nothing if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
