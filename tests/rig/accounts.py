"""The people of the rig: the same accounts on both hosts, in private passwd, group and shadow files."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path

_FIRST_HUMAN_ID = 1000
#: System accounts that have high numbers nevertheless.
_HIGH_SYSTEM_NAMES = frozenset({"slurm", "nobody", "nogroup"})


@dataclass(frozen=True, slots=True)
class Account:
    """A user with a group of the same name and number."""

    name: str
    uid: int

    @property
    def home(self) -> str:
        return f"/home/{self.name}"


USERS = (
    Account("alice", 2001),
    Account("bob", 2002),
    Account("dot.ted-User_1", 2003),
    Account("od d'us@er ü", 2004),
)
SHARED_GROUP = ("hpc", 3000)


def account_files() -> dict[str, str]:
    """Return the content of passwd, group and shadow: this machine's system accounts, then the rig's users."""
    passwd = _system_lines(Path("/etc/passwd"))
    passwd += [f"{u.name}:x:{u.uid}:{u.uid}::{u.home}:/bin/bash" for u in USERS]
    group = _system_lines(Path("/etc/group"))
    group += [f"{u.name}:x:{u.uid}:" for u in USERS]
    group.append(f"{SHARED_GROUP[0]}:x:{SHARED_GROUP[1]}:{','.join(u.name for u in USERS)}")
    # slurmd calls `su - USER` for --export=NONE; PAM refuses accounts without a shadow entry. Nobody has a password.
    shadow = [f"{line.partition(':')[0]}:*:19000:0:99999:7:::" for line in passwd]
    return {"passwd": _joined(passwd), "group": _joined(group), "shadow": _joined(shadow)}


def login_environment(user: str) -> dict[str, str]:
    """Return the variables that a login of `user` sets."""
    homes = {"root": "/root"} | {account.name: account.home for account in USERS}
    system_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "HOME": homes.get(user, "/"),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin" if user in homes and user != "root" else system_path,
        "LANG": "C.UTF-8",
    }


def numbers_of(user: str) -> tuple[int, int]:
    """Return uid and gid of a user of the rig or a system account of this machine."""
    for account in USERS:
        if account.name == user:
            return account.uid, account.uid
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _system_lines(path: Path) -> list[str]:
    """Return the lines of passwd or group whose number (third field) or name is the system's."""
    lines = [line for line in path.read_text().splitlines() if line.count(":") >= 3]
    rows = [(line, line.split(":")) for line in lines]
    return [line for line, row in rows if int(row[2]) < _FIRST_HUMAN_ID or row[0] in _HIGH_SYSTEM_NAMES]


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
