"""Asking the running router what it would do, as an admin does."""

from __future__ import annotations

import json

from tests.rig.job_verbs import JobVerbs


def ask_router(rig: JobVerbs, *options: str) -> dict[str, object] | None:
    """Return the router's answer about a plain job of these options, None where no router answers."""
    asked = rig.cluster.run(["overspill", "decide", "--json", *options], user="slurm", cwd="/")
    answer: dict[str, object] | None = json.loads(asked.stdout) if asked.returncode == 0 else None
    return answer


def would_divert(rig: JobVerbs) -> bool:
    """Return whether a plain job would be diverted now; False where no router answers."""
    answer = ask_router(rig)
    return answer is not None and answer["verdict"] == "DIVERT"
