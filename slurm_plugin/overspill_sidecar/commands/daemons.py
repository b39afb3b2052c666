"""Asking the running router and relay, over the sockets that only root and SlurmUser may open."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from overspill.errors import NotPermittedError, UnavailableError, from_rpc_error
from overspill.v1 import sidecar_pb2 as pb
from overspill.v1.sidecar_pb2_grpc import RelayAdminStub, RouterAdminStub
from overspill_sidecar.config import RelayConfig, RouterConfig, SidecarConfig

_T = TypeVar("_T")
_DEADLINE_S = 3.0
#: The relay asks every site in turn.
_SITES_DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True)
class Daemons:
    """Where the sidecar's two roles answer.

    Each question raises UnavailableError where nobody answers, and NotPermittedError where the caller may not ask.
    """

    router: Path
    relay: Path

    @classmethod
    def of(cls, config: SidecarConfig | None) -> Daemons:
        """Return those of a configuration; of the defaults where there is none that we can read."""
        router, relay = (config.router, config.relay) if config else (RouterConfig(), RelayConfig())
        return cls(router.admin_path, relay.admin_path)

    def router_status(self) -> pb.RouterStatusResponse:
        return _ask("router", self.router, lambda it: RouterAdminStub(it).Status(pb.RouterStatusRequest(), _DEADLINE_S))

    def decisions(self, request: pb.ListDecisionsRequest) -> list[pb.DecisionRecord]:
        answer = _ask("router", self.router, lambda it: RouterAdminStub(it).ListDecisions(request, _DEADLINE_S))
        return list(answer.decisions)

    def relay_status(self) -> pb.RelayStatusResponse:
        return _ask("relay", self.relay, lambda it: RelayAdminStub(it).Status(pb.RelayStatusRequest(), _DEADLINE_S))

    def site_runs(self) -> pb.ListSiteRunsResponse:
        request = pb.ListSiteRunsRequest()
        return _ask("relay", self.relay, lambda it: RelayAdminStub(it).ListSiteRuns(request, _SITES_DEADLINE_S))

    def events(self, slurm_job_id: int) -> list[pb.JobEvent]:
        request = pb.ListEventsRequest(slurm_job_id=slurm_job_id)
        answer = _ask("relay", self.relay, lambda it: RelayAdminStub(it).ListEvents(request, _DEADLINE_S))
        return list(answer.events)


def check_socket(role: str, path: Path) -> None:
    """Tell why nobody can be asked on the socket before gRPC tells it in its own words.

    Raises:
        UnavailableError: if the socket is not there.
        NotPermittedError: if we may not open it.
    """
    if not os.path.exists(path.parent):  # noqa: PTH110 - False where we may not look
        raise UnavailableError(f"the {role} is not running on this host ({path.parent} is not there)")
    if not os.access(path.parent, os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise NotPermittedError(f"only root and SlurmUser may ask the {role}")
    if not path.exists():
        raise UnavailableError(f"the {role} is not running on this host ({path} is not there)")


def _ask(role: str, path: Path, question: Callable[[grpc.Channel], _T]) -> _T:
    check_socket(role, path)
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            return question(channel)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise UnavailableError(f"the running {role} is of another version; restart it") from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise UnavailableError(f"the {role} is there, but does not answer; see its log, restart it") from error
            reason = from_rpc_error(error).reason
            raise UnavailableError(f"the {role} does not answer on {path}: {reason}") from error
