"""Asking the running router what it would do, as an admin does."""

from __future__ import annotations

import json

from tests.rig.rig import Rig

_DECIDE = ("/opt/overspill/venv/bin/python", "-m", "overspill_sidecar", "decide", "--json")


def would_divert(rig: Rig) -> bool:
    """Return whether a plain job of alice's would be diverted now; False where no router answers."""
    asked = rig.cluster.run(_DECIDE, user="slurm", cwd="/", env={"PYTHONPATH": "/opt/overspill/lib"})
    return asked.returncode == 0 and bool(json.loads(asked.stdout)["verdict"] == "DIVERT")
