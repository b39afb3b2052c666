"""Who a run is inside its container: /etc/passwd and /etc/group as `id` and `~` read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from overspill_agent.backends.base import Account

_SHELL = "/bin/bash"


def passwd(image: str, account: Account) -> str:
    """Return the image's own /etc/passwd with the account in it, and nobody else of its name or uid."""
    own = f"{account.name}:x:{account.uid}:{account.gid}::{account.home}:{_SHELL}"
    return _with(image, {own: (account.name, account.uid)})


def group(image: str, account: Account, names: Mapping[int, str]) -> str:
    """Return the image's own /etc/group with the account's groups in it.

    Args:
        image: the image's.
        account: the run's.
        names: of the site's groups, by gid; one that has none there is called as the image calls it, or not at all.
    """
    entries = {}
    for gid in dict.fromkeys((account.gid, *account.groups)):
        if gid in names:
            member = account.name if gid != account.gid else ""
            entries[f"{names[gid]}:x:{gid}:{member}"] = (names[gid], gid)
    return _with(image, entries)


def _with(image: str, entries: Mapping[str, tuple[str, int]]) -> str:
    """Return the lines with the entries, and without those that have the name or the number of one."""
    names = {name for name, _ in entries.values()}
    numbers = {str(number) for _, number in entries.values()}
    kept = [line for line in image.splitlines() if line and not _is_one(line.split(":"), names, numbers)]
    return "".join(f"{line}\n" for line in [*kept, *entries])


def _is_one(fields: list[str], names: set[str], numbers: set[str]) -> bool:
    return fields[0] in names or (len(fields) > 2 and fields[2] in numbers)  # noqa: PLR2004  passwd(5), group(5)
