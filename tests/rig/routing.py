"""Asking the running router what it would do, as an admin does with `overspill decide`."""

from __future__ import annotations

from overspill.errors import OverspillError
from overspill_sidecar.commands.decide import as_dict, ask, decide, request_of
from tests.rig.accounts import numbers_of
from tests.rig.job_verbs import JobVerbs
from tests.rig.overspill_conf import ROUTER_SOCKET


def ask_router(rig: JobVerbs, *options: str, user: str = "slurm") -> dict[str, object] | None:
    """Return the router's answer about a plain job of these options, None where no router answers.

    In this process: the command itself takes half a second to start, and tests ask often.
    """
    user_id, _ = numbers_of(user)
    chosen = decide.make_context("overspill decide", [*options, f"--user={user_id}"]).params
    del chosen["as_json"]
    try:
        return as_dict(ask(rig.cluster.path(ROUTER_SOCKET), request_of(**chosen)))
    except OverspillError:
        return None


def would_divert(rig: JobVerbs) -> bool:
    """Return whether a plain job would be diverted now; False where no router answers."""
    answer = ask_router(rig)
    return answer is not None and answer["verdict"] == "DIVERT"
