"""Whom a cluster's user is at this site."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from overspill.errors import NotPermittedError
from overspill_agent.backends.base import Account

#: Below lie root and the system's own accounts; `nobody` lies above.
#: Source: https://www.debian.org/doc/debian-policy/ch-opersys.html#uid-and-gid-classes
FIRST_USER_UID = 1000
NOBODY_UID = 65534
#: The one group below that people have: Debian's and SUSE's `users`, which opens nothing.
_USERS_GID = 100
#: The key for every user of a cluster who has no line.
EVERYBODY_ELSE = "*"
#: Begins a value that stands for the account of the user's own name, if that is in the group that follows.
GROUP_MARK = "%"


@dataclass(frozen=True, slots=True)
class Mapped:
    """An account here by name, and the group that it must be in; None where the operator has named the account."""

    account: str
    group: str | None = None


def mapped_account(accounts: Mapping[str, Mapping[str, str]], slurm_cluster: str, user_name: str) -> Mapped:
    """Return what the site's operator has mapped the cluster's user to. A user's own line counts before `*`.

    Raises:
        NotPermittedError: to nobody: there is no line, or an empty one.
    """
    users = accounts.get(slurm_cluster, {})
    value = "" if user_name == EVERYBODY_ELSE else users.get(user_name, users.get(EVERYBODY_ELSE, ""))
    if not value:
        raise NotPermittedError(
            f"user {user_name!r} of cluster {slurm_cluster!r} has no account at this site;"
            f" its operator can add one to [accounts.{slurm_cluster}]"
        )
    if value.startswith(GROUP_MARK):
        return Mapped(user_name, value.removeprefix(GROUP_MARK))
    return Mapped(value)


def resolve_mapping(mapped: Mapped) -> Account:
    """Return the account from the site's user database; blocks as `resolve_account`.

    Raises:
        NotPermittedError: as `resolve_account`, or it is not in the group that it must be in.
    """
    account = resolve_account(mapped.account)
    if mapped.group is not None and group_id(mapped.group) not in (account.gid, *account.groups):
        raise NotPermittedError(
            f"account {account.name!r} is not in group {mapped.group!r} of this site, so no cluster's user can be it"
        )
    return account


def group_id(name: str) -> int:
    """Return the id of a group of this site.

    Raises:
        NotPermittedError: there is none of this name, or it is the system's.
    """
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        raise NotPermittedError(f"this site has no group {name!r}; its operator must correct [accounts]") from None
    if number < FIRST_USER_UID:
        raise NotPermittedError(f"group {name!r} (gid {number}) belongs to the system; it can let nobody in")
    return number


def resolve_account(name: str) -> Account:
    """Return the account from the site's user database. Blocks for as long as that takes to answer.

    Raises:
        NotPermittedError: if there is none of this name, or it is root's, a system's or nobody's.

    Its groups are those of people: a stranger's job gets nothing of what `docker`, `sudo`, `disk` or `shadow` open.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NotPermittedError(f"this site has no user {name!r}; its operator must correct [accounts]") from None
    if entry.pw_uid < FIRST_USER_UID or entry.pw_uid == NOBODY_UID:
        raise NotPermittedError(f"account {name!r} (uid {entry.pw_uid}) belongs to the system; no run may have it")
    if not _is_peoples(entry.pw_gid):
        raise NotPermittedError(
            f"account {name!r} has the system's group {entry.pw_gid} as its own; no run may have it:"
            f" give the account a group of its own (usermod -g)"
        )
    groups = tuple(group for group in os.getgrouplist(name, entry.pw_gid) if _is_peoples(group))
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, home=entry.pw_dir)


def _is_peoples(gid: int) -> bool:
    return gid >= FIRST_USER_UID or gid == _USERS_GID


def check_value(value: str) -> None:
    """Check the right side of a line of the table.

    Raises:
        NotPermittedError: it names an account or a group that no run may have.
    """
    if value.startswith(GROUP_MARK):
        group_id(value.removeprefix(GROUP_MARK))
    elif value:
        resolve_account(value)


def check_accounts(accounts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return what an operator should know of the table, a sentence for each account that several people have.

    Raises:
        NotPermittedError: a line names an account or a group that no run may have.
    """
    remarks = []
    for cluster, users in accounts.items():
        names: dict[str, list[str]] = {}
        for user, value in users.items():
            check_value(value)
            if value and not value.startswith(GROUP_MARK):
                names.setdefault(value, []).append(user)
        remarks += [
            f"[accounts.{cluster}]: {', '.join(sharing)} are all {account!r} here and share its files"
            for account, sharing in names.items()
            if len(sharing) > 1 or sharing == [EVERYBODY_ELSE]
        ]
    return remarks
