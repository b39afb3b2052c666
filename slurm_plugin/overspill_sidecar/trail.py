"""Our part of a job's admin_comment: a JSON object under the key `overspill`. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping


def our_part_changed(admin_comment: str, changes: Mapping[str, object]) -> str | None:
    """Return the admin_comment with these keys of our part set, or removed where None; None if it is no JSON object."""
    try:
        whole = json.loads(admin_comment or "{}")
        ours = whole.setdefault("overspill", {}) if isinstance(whole, dict) else None
    except ValueError:
        return None
    if not isinstance(ours, dict):
        return None
    for key, value in changes.items():
        if value is None:
            ours.pop(key, None)
        else:
            ours[key] = value
    return json.dumps(whole, separators=(",", ":"))
