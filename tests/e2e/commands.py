"""Calling `overspill` inside a rig."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.rig import Rig


def overspill(
    rig: Rig, *arguments: str, user: str = "root", at: str = "cluster", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Return what the command printed; it gets a minute."""
    host = rig.cluster if at == "cluster" else rig.site
    return host.run(["overspill", *arguments], user=user, cwd="/", env=env, timeout=120)


def overspill_json(rig: Rig, *arguments: str, user: str = "root") -> Any:
    """Return what the command printed with --json.

    Raises:
        AssertionError: if it printed no JSON.
    """
    done = overspill(rig, *arguments, "--json", user=user)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
