"""Users as this host knows them. Asks the name service, which may take seconds: never from the event loop."""

from __future__ import annotations

import pwd
from collections.abc import Collection


def user_ids(names: Collection[str]) -> dict[str, int]:
    """Return the numbers of those of the users whom the name service knows now."""
    found = {}
    for name in names:
        try:
            found[name] = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return found
