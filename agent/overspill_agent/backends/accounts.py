"""Whom a cluster's user is at this site."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from overspill.errors import NotPermittedError
from overspill_agent.backends.base import Account

#: Below lie root and the system's own accounts; `nobody` lies above.
#: Source: https://www.debian.org/doc/debian-policy/ch-opersys.html#uid-and-gid-classes
FIRST_USER_UID = 1000
NOBODY_UID = 65534


def mapped_account(accounts: Mapping[str, Mapping[str, str]], slurm_cluster: str, user_name: str) -> str:
    """Return the name of the account here that the cluster's user is mapped to.

    Raises:
        NotPermittedError: if the site's operator has mapped the user to none.
    """
    try:
        return accounts[slurm_cluster][user_name]
    except KeyError:
        raise NotPermittedError(
            f"user {user_name!r} of cluster {slurm_cluster!r} has no account at this site;"
            f" its operator can add one to [accounts.{slurm_cluster}]"
        ) from None


def resolve_account(name: str) -> Account:
    """Return the account from the site's user database. Blocks for as long as that takes to answer.

    Raises:
        NotPermittedError: if there is none of this name, or it is root's, a system's or nobody's.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NotPermittedError(f"this site has no user {name!r}; its operator must correct [accounts]") from None
    if entry.pw_uid < FIRST_USER_UID or entry.pw_uid == NOBODY_UID or entry.pw_gid == 0:
        raise NotPermittedError(f"account {name!r} (uid {entry.pw_uid}) belongs to the system; no run may have it")
    groups = tuple(group for group in os.getgrouplist(name, entry.pw_gid) if group != 0)
    return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, home=entry.pw_dir)
