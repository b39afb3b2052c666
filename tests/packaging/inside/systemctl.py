#!/usr/bin/python3
"""`systemctl` for a machine without systemd: starts the services that unit files describe, as they describe it.

No other way of starting a daemon exists in these tests, so what is wrong with a unit file shows. Of the confinement, it
applies the user, the capabilities, NoNewPrivileges, ProtectSystem=strict and the limit on open files.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_UNIT_DIRECTORIES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_STATE = Path("/run/systemctl")
_READY_S = 60.0
_VERBS = ("start", "stop", "restart", "try-restart", "enable", "disable", "is-active", "daemon-reload")
#: Key -> where systemd makes such a directory.
_MADE = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib"}


class Unit:
    """One service: its file's keys, each with all values in order."""

    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        template, at, instance = self.name.partition("@")
        file_name = f"{template}{at}.service"
        self.keys: dict[str, list[str]] = {}
        self.wanted_link = Path(_UNIT_DIRECTORIES[0], "multi-user.target.wants", f"{self.name}.service")
        paths = [Path(directory, file_name) for directory in _UNIT_DIRECTORIES]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            sys.exit(f"Unit {name} not found.")
        self.path = path
        for part in (path, *sorted(Path(_UNIT_DIRECTORIES[0], f"{file_name}.d").glob("*.conf"))):
            for line in part.read_text().splitlines():
                key, equals, value = line.partition("=")
                if equals and not line.startswith("#"):
                    self.keys.setdefault(key, []).append(value.replace("%i", instance))

    def last(self, key: str, default: str = "") -> str:
        return self.keys.get(key, [default])[-1]

    @property
    def pid_file(self) -> Path:
        return Path(self.last("PIDFile")) if self.last("Type") == "forking" else _STATE / f"{self.name}.pid"

    @property
    def pid(self) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(self.pid_file.read_text())
            with contextlib.suppress(FileNotFoundError):
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                return None if state == "Z" else pid
        return None

    def start(self) -> None:
        if self.pid is not None:
            return
        missing = [path for path in self.keys.get("ConditionPathExists", []) if not Path(path).exists()]
        if missing:
            return
        writable = list(self._make_directories())
        argv = [*self._confinement(writable), *self._command()]
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        log = (_STATE / f"{self.name}.log").open("ab")
        if self.last("Type") == "forking":
            subprocess.run(argv, check=True, env=environment, stdout=log, stderr=log, cwd="/")
            return
        with _notify_socket(self.name) as manager:
            if self.last("Type") == "notify":
                environment["NOTIFY_SOCKET"] = manager.getsockname()
            process = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
            self.pid_file.write_text(str(process.pid))
            if self.last("Type") == "notify":
                self._wait_until_ready(process, manager)

    def stop(self) -> None:
        """End the main process, as KillMode=process does, or all of its session."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _READY_S
        while self.pid is not None:
            if time.monotonic() > deadline:
                sys.exit(f"{self.name} did not stop")
            time.sleep(0.05)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], manager: socket.socket) -> None:
        deadline = time.monotonic() + _READY_S
        manager.settimeout(0.2)
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in manager.recv(4096):
                    return
            if process.poll() is not None:
                log = (_STATE / f"{self.name}.log").read_text(errors="replace")
                sys.exit(f"Job for {self.name}.service failed: exit code {process.returncode}\n{log[-3000:]}")
        sys.exit(f"Job for {self.name}.service failed: it never said that it was ready")

    def _command(self) -> list[str]:
        environment: dict[str, str] = {}
        for path in self.keys.get("EnvironmentFile", []):
            with contextlib.suppress(FileNotFoundError):
                lines = Path(path.removeprefix("-")).read_text().splitlines()
                environment |= dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        words = []
        for word in self.last("ExecStart").split():
            if word.startswith("$"):
                words += shlex.split(shlex.split(environment.get(word[1:], "") or "''")[0])
            else:
                words.append(word)
        return words

    def _make_directories(self) -> Iterator[str]:
        user = pwd.getpwnam(self.last("User", "root"))
        for key, parent in _MADE.items():
            for name in self.last(key).split():
                path = Path(parent, name)
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(int(self.last(f"{key}Mode", "0755"), 8))
                os.chown(path, user.pw_uid, user.pw_gid)
                yield str(path)
        for paths in self.keys.get("ReadWritePaths", []):
            yield from paths.split()

    def _confinement(self, writable: list[str]) -> list[str]:
        argv: list[str] = []
        if self.last("LimitNOFILE"):
            limit = min(int(self.last("LimitNOFILE")), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            argv += ["prlimit", f"--nofile={limit}"]
        if self.last("ProtectSystem") == "strict":
            again = "".join(f"mount --bind {path} {path}; mount -o remount,bind,rw {path};" for path in writable)
            script = f"mount --rbind / /mnt; cd /mnt; mount -o remount,bind,ro /mnt; {again.replace(' /', ' /mnt/')}"
            argv += ["unshare", "--mount", "sh", "-ec", f'{script} exec chroot /mnt "$@"', "sh"]
        become = []
        if self.last("User"):
            become += [
                f"--reuid={self.last('User')}",
                f"--regid={self.last('Group', self.last('User'))}",
                "--init-groups",
            ]
        if self.last("NoNewPrivileges") == "yes":
            become.append("--no-new-privs")
        if "CapabilityBoundingSet" in self.keys:
            kept = [f"+{name.lower().removeprefix('cap_')}" for name in self.last("CapabilityBoundingSet").split()]
            become.append(f"--bounding-set={','.join(['-all', *kept])}")
        return [*argv, "setpriv", *become] if become else argv


@contextlib.contextmanager
def _notify_socket(name: str) -> Iterator[socket.socket]:
    path = _STATE / f"{name}.notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        path.chmod(0o666)
        yield manager


def main() -> None:
    verb, *words = [word for word in sys.argv[1:] if word not in {"--no-reload", "--quiet"}]
    if verb not in _VERBS:
        sys.exit(f"systemctl: this stand-in knows only {', '.join(_VERBS)}")
    _STATE.mkdir(exist_ok=True)
    units = [Unit(word) for word in words if not word.startswith("-")]
    if verb == "is-active":
        sys.exit(0 if all(unit.pid for unit in units) else 3)
    for unit in units:
        was_active = unit.pid is not None
        if verb == "enable":
            unit.wanted_link.parent.mkdir(parents=True, exist_ok=True)
            unit.wanted_link.symlink_to(unit.path)
        elif verb == "disable":
            unit.wanted_link.unlink(missing_ok=True)
        if (
            verb in {"stop", "restart"}
            or (verb == "try-restart" and was_active)
            or (verb == "disable" and "--now" in words)
        ):
            unit.stop()
        is_wanted = verb in {"start", "restart"} or (verb == "enable" and "--now" in words)
        if is_wanted or (verb == "try-restart" and was_active):
            unit.start()


if __name__ == "__main__":
    main()
