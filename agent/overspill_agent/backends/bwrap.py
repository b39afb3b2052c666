"""How a runner is put into its view of this host: programs and command lines. Pure, but for `Programs.find`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from overspill.errors import AdminError
from overspill_agent.backends.attempt import LockDescriptors
from overspill_agent.backends.base import Launch
from overspill_agent.backends.run_files import runner_argv
from overspill_agent.backends.sandbox import Sandbox

#: Enters the cgroups whose files are named before `--` and becomes the command after it.
_ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 1; shift; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Programs:
    """Absolute paths of what is executed as root."""

    bwrap: str
    setpriv: str
    rm: str
    sh: str

    @classmethod
    def find(cls) -> Programs:
        """Return the programs found on PATH.

        Raises:
            AdminError: one is missing; names the package.
        """
        return cls(
            bwrap=_find("bwrap", "bubblewrap"),
            setpriv=_find("setpriv", "util-linux"),
            rm=_find("rm", "coreutils"),
            sh=_find("sh", "dash"),
        )


def _find(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise AdminError(f"the local backend needs `{program}`; install the package {package}")
    return path


def bwrap_argv(programs: Programs, python: Path, launch: Launch, sandbox: Sandbox, lock: LockDescriptors) -> list[str]:
    """Return the command line: bubblewrap builds the view, setpriv becomes the user, Python runs the runner. Pure.

    bubblewrap sets no_new_privs, so nothing in the view can become anybody else. It keeps only the capabilities that
    setpriv needs, and setpriv ends with none.
    """
    isolation = ["--unshare-pid", "--as-pid-1", "--unshare-ipc", "--new-session"]
    capabilities = ["--cap-drop", "ALL"]
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
        capabilities += ["--cap-add", capability]
    life = ["--json-status-fd", str(lock.monitor), "--sync-fd", str(lock.init)]
    account = launch.account
    become_user = [programs.setpriv, "--reuid", str(account.uid), "--regid", str(account.gid)]
    become_user += ["--groups", ",".join(map(str, account.groups))] if account.groups else ["--clear-groups"]
    become_user += ["--inh-caps=-all", "--bounding-set=-all"]
    view = [*sandbox.mounts, "--chdir", "/"]
    runner = runner_argv(str(python), launch)
    return [programs.bwrap, *isolation, *capabilities, *life, *view, "--", *become_user, *runner]


def device_mounts(files: Iterable[str]) -> list[str]:
    """Return the arguments that show these device files, in directories that everybody may pass through."""
    mounts = []
    for file in files:
        *parents, _root = PurePosixPath(file).parents
        for parent in reversed(parents):
            mounts += ["--perms", "0755", "--dir", str(parent)]
        mounts += ["--dev-bind", file, file]
    return mounts


def in_cgroups(programs: Programs, process_files: Iterable[Path], argv: list[str]) -> list[str]:
    """Return the command line that enters cgroups, by their files that take processes, before it becomes `argv`."""
    return [programs.sh, "-c", _ENTER, "sh", *map(str, process_files), "--", *argv]
