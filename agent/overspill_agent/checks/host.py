"""The agent's host: disk, ports, and whether a sandbox can be built on it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from overspill.cli.finding import Finding, error, ok, warning
from overspill.errors import AdminError
from overspill_agent.backends.cgroups import Cgroups
from overspill_agent.config import AgentConfig, Local

_DEADLINE_S = 10.0
_MIB = 1024 * 1024
#: Below it a few runs' output fills the disk.
_COMFORTABLE_MIB = 2_048
_LOWEST_PYTHON = "import sys; sys.exit(sys.version_info < (3, 8))"
#: What the local back end asks of bubblewrap, with nothing in it.
_EMPTY_SANDBOX = ("bwrap", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true")


def directories(config: AgentConfig) -> Iterator[Finding]:
    """Look at whose the agent's directories are."""
    section = config.local or config.docker
    runs = [(f"{config.backend} back end", section.directory)] if section else []
    for subject, path in (("store", config.store.path.parent), *runs):
        try:
            status = path.stat()
        except FileNotFoundError:
            if path.parent.is_dir():
                yield ok(f"{subject}: directory", f"{path} is not there yet; the agent makes it")
            else:
                yield error(f"{subject}: directory", f"{path.parent} is not there", f"mkdir -p {path.parent}")
            continue
        except OSError as failure:
            yield warning(f"{subject}: directory", f"cannot look at {path}: {failure.strerror}", "run it as root")
            continue
        if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            what = f"{path} belongs to uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
            yield error(f"{subject}: directory", what, f"chown root {path} && chmod go-w {path}")
        else:
            yield ok(f"{subject}: directory", f"{path} is root's")
    for path in section.shared if section else ():
        if not path.is_dir():
            what = f"{path} is not there, but [{config.backend}] shared promises it to runs"
            yield error("shared directory", what, "mount it, or remove it from shared")


def disk(config: AgentConfig) -> Iterator[Finding]:
    """Look at the space that output and the database need."""
    directory = _existing(config.store.path.parent)
    free_mib = shutil.disk_usage(directory).free // _MIB
    reserve = config.store.reserve_mib
    if free_mib <= reserve:
        what = f"{directory} has {free_mib} MiB free, of which {reserve} are kept in reserve: new runs are refused"
        yield error("disk", what, "free space, or move [store] path")
    elif free_mib < _COMFORTABLE_MIB + reserve:
        yield warning("disk", f"{directory} has {free_mib} MiB free", "output is kept there until its cluster has it")
    else:
        yield ok("disk", f"{directory} has {free_mib} MiB free")
    section = config.local or config.docker
    if section and _existing(section.directory).stat().st_dev == directory.stat().st_dev:
        what = "runs and the agent's own store share a file system: one job can fill the agent's disk"
        yield warning("disk: shared", what, f"give [{config.backend}] directory a file system of its own")


def listening(config: AgentConfig) -> Iterator[Finding]:
    """Look at both ports: the agent's own when it runs, free when it does not."""
    for subject, listen in (
        ("relays' service", config.server.listen),
        ("runners' service", config.runner_channel.listen),
    ):
        host, _, port = listen.rpartition(":")
        address = (_reachable(host.strip("[]")), int(port))
        try:
            with socket.create_connection(address, timeout=_DEADLINE_S):
                yield ok(f"{subject}: port", f"somebody listens on {listen}")
        except OSError as failure:
            what = f"nobody listens on {listen}: {failure.strerror or failure}"
            yield error(f"{subject}: port", what, "systemctl start overspill-agent; then see its log")


def sandbox(local: Local) -> Iterator[Finding]:
    """Look at what a run of the local back end needs: bubblewrap, the kernel's namespaces, Python, the runner."""
    if shutil.which("bwrap") is None:
        yield error("bubblewrap", "bwrap is not installed: no run can start", "install the package bubblewrap")
    elif problem := _failure(list(_EMPTY_SANDBOX)):
        remedy = (
            "namespaces and mounts must be allowed: in a container it needs CAP_SYS_ADMIN, and no seccomp that denies"
        )
        yield error("bubblewrap", f"it cannot build a sandbox here: {problem}", remedy)
    else:
        yield ok("bubblewrap", "it can build a sandbox")
    if problem := _failure([str(local.python), "-I", "-S", "-c", _LOWEST_PYTHON]):
        what = f"{local.python} cannot run the runner: {problem}"
        yield error("runner: Python", what, "[local] python must be Python 3.8 or later, readable for every account")
    elif not os.access(local.runner, os.R_OK):
        yield error("runner", f"{local.runner} is not there", "correct [local] runner, or reinstall overspill-agent")
    else:
        yield ok("runner", f"{local.python} runs {local.runner}")
    yield from _limits(local)
    cpus = os.cpu_count() or 1
    if local.cpus > cpus:
        what = f"[local] cpus offers {local.cpus}, this host has {cpus}"
        yield warning("local back end: CPUs", what, "runs share CPUs then; offer what there is")


def _limits(local: Local) -> Iterator[Finding]:
    """Try whether this host lets the agent limit runs, if it is to."""
    subject = "local back end: limits"
    if local.limits == "none":
        yield warning(subject, "runs may take any CPUs and memory that there are", 'set [local] limits = "enforced"')
        return
    if os.geteuid() != 0:
        yield warning(subject, "only root can tell whether runs can be limited", "call this as root")
        return
    try:
        Cgroups.of_this_host()
    except AdminError as failure:
        remedy = 'let the agent make cgroups (ProtectControlGroups=no), or set [local] limits = "none"'
        say = error if local.limits == "enforced" else warning
        yield say(subject, failure.reason, remedy)
    else:
        yield ok(subject, "runs get the CPUs and memory that they asked for, by cgroups")


def _failure(argv: list[str]) -> str:
    """Return why the command fails, empty if it does not."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    return "" if done.returncode == 0 else (done.stderr.strip().split("\n")[0] or f"it exits with {done.returncode}")


def _existing(path: Path) -> Path:
    # os.path's: a place where we may not look is no reason to fail.
    return next(parent for parent in (path, *path.parents) if os.path.exists(parent))  # noqa: PTH110


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
