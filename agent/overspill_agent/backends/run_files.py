"""What an attempt has on the agent's disk, wherever it runs: its private directories and what its runner needs.

Root makes them before the attempt starts and never writes there again: what a job has left could lead anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from overspill.errors import AdminError, ExhaustedError, UnavailableError
from overspill_agent.backends.base import Account, Launch

#: Where the runner finds what is its own. At the root, because a run's root is its own anyway.
CONTROL = PurePosixPath("/.overspill")
#: Of the programs that the agent itself starts, and of the runner: nothing of the agent's own.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
#: Imported, not run as a program: only so does Python take what is compiled already.
_RUN = f"import sys; sys.path.append({str(CONTROL)!r}); from runner import main; main()"
_COMPLAINT_BYTES = 500
#: What the runner itself may need beside the job: the interpreter, and output that waits for the agent.
_RUNNER_MIB = 48
_SHORTAGES = frozenset(
    {errno.EAGAIN, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
)


def read_runner(path: Path, section: str) -> bytes:
    """Return the runner's source.

    Raises:
        AdminError: it cannot be read; names the key of `section` that says where it is.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise AdminError(f"cannot read {path}: {error.strerror}; correct [{section}] runner") from error


def runner_argv(python: str, launch: Launch) -> list[str]:
    """Return the command line of the runner, in a view where its own directory is `CONTROL`. It holds no secret."""
    runner = [python, "-I", "-S", "-c", _RUN, "--url", launch.agent_url]
    runner += ["--run", launch.run_id, "--attempt", str(launch.attempt)]
    return [*runner, "--token-file", str(CONTROL / "token"), "--ca-file", str(CONTROL / "ca.pem")]


def memory_limit_mib(wanted_mib: int, site_mib: int) -> int:
    """Return what a run and its runner may use; 0 for no limit.

    Args:
        wanted_mib: what the run has asked for; one that has asked for none, 0, may have what the site offers.
        site_mib: that; 0 if it does not say.
    """
    most_mib = wanted_mib or site_mib
    return most_mib + _RUNNER_MIB if most_mib else 0


def make_control(control: Path, launch: Launch, runner: Mapping[str, bytes]) -> None:
    """Write what the runner needs; readable by the user only, who gets the directory when all is in it."""
    control.mkdir(mode=0o700)
    account = launch.account
    cache = control / "__pycache__"
    cache.mkdir(mode=0o700)
    contents = {**runner, "token": launch.token.encode(), "ca.pem": launch.ca_pem}
    for name, content in contents.items():
        descriptor = os.open(control / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchown(descriptor, account.uid, account.gid)
    os.chown(cache, account.uid, account.gid, follow_symlinks=False)
    os.chown(control, account.uid, account.gid, follow_symlinks=False)


def make_private(files: Path, directories: Iterable[PurePosixPath], account: Account) -> None:
    """Make the run's private directories, each the user's, with the mode that the host's has at the same path."""
    files.mkdir(mode=0o700)
    for path in directories:
        directory = files / path.relative_to("/")
        directory.mkdir(mode=0o755, parents=True)
        directory.chmod(_mode_like(Path(path)))
        os.chown(directory, account.uid, account.gid)


def remove_tree(rm: str, directory: Path) -> None:
    """Remove a tree that a job may have made as deep as it liked, and follow no symlink.

    Args:
        rm: absolute path of coreutils' program.
        directory: nothing happens if it is not there.

    Raises:
        UnavailableError: something is left.
    """
    argv = [rm, "-rf", "--one-file-system", "--", str(directory)]
    done = subprocess.run(argv, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        complaint = done.stderr[-_COMPLAINT_BYTES:].decode("utf-8", "replace").strip()
        raise UnavailableError(f"cannot remove {directory}: {complaint}")


def start_error(error: OSError) -> ExhaustedError | AdminError:
    """Return what ends by itself as a shortage; anything else is wrong with this host until somebody mends it."""
    where = f"{error.filename}: " if error.filename else ""
    reason = f"cannot start a run: {where}{error.strerror}"
    return ExhaustedError(reason) if error.errno in _SHORTAGES else AdminError(reason)


def _mode_like(path: Path) -> int:
    """Return 01777 for what is everybody's on the host (/tmp), 0755 for anything else."""
    with contextlib.suppress(OSError):
        if path.stat().st_mode & 0o1777 == 0o1777:  # noqa: PLR2004  the mode of /tmp, as everybody writes it
            return 0o1777
    return 0o755
