"""The audit log: one line for each request for a run, with who signed it and whom it became."""

from __future__ import annotations

import hashlib

import structlog

from overspill.certificates import fingerprint
from overspill.tls import Peer
from overspill.v1 import agent_pb2 as pb
from overspill_agent.runs import Run

#: What a cluster may make us write of one value: a message of its may have 64 MiB.
_MOST_CHARACTERS = 256

log = structlog.get_logger(__name__)


def submit_accepted(request: pb.SubmitRequest, caller: Peer, run: Run) -> None:
    log.info(
        "submit accepted",
        action="submit_accepted",
        run_id=run.run_id,
        account=run.account,
        script_sha256=hashlib.sha256(request.spec.script).hexdigest(),
        **_who(request, caller),
    )


def submit_refused(request: pb.SubmitRequest, caller: Peer, reason: str) -> None:
    log.warning("submit refused", action="submit_refused", reason=_short(reason), **_who(request, caller))


def _who(request: pb.SubmitRequest, caller: Peer) -> dict[str, object]:
    request_id, spec = request.request_id, request.spec
    return {
        "slurm_cluster": _short(request_id.slurm_cluster),
        "slurm_job_id": request_id.slurm_job_id,
        "user_name": _short(spec.user_name),
        "user_id": spec.user_id,
        "slurm_account": _short(spec.account),
        "certificate_sha256": fingerprint(caller.certificate).hex(),
    }


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text)} characters)"
