"""What the sidecar tells people: the services behind `overspill status`, `jobs`, `explain` and `logs`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc.aio

from overspill import __version__
from overspill.errors import OverspillError
from overspill.v1 import agent_pb2
from overspill.v1 import sidecar_pb2 as pb
from overspill.v1.sidecar_pb2_grpc import (
    RelayAdminServicer,
    RouterAdminServicer,
    add_RelayAdminServicer_to_server,
    add_RouterAdminServicer_to_server,
)
from overspill_sidecar.decision.budget import AccountUse, budget_of
from overspill_sidecar.decision.capacity import Amount, SlotGroup
from overspill_sidecar.forecast import Forecast
from overspill_sidecar.policy import WORDS, Policy, Scope, WordKey
from overspill_sidecar.records.ledger import Ledger, Search
from overspill_sidecar.records.record import message_of_budget
from overspill_sidecar.records.tally import Tally
from overspill_sidecar.router import Router
from overspill_sidecar.sites.site import Site
from overspill_sidecar.watch import ClusterWatch

_FOREVER_MS = 2**62
_USUAL_LIMIT = 100
_MOST_EVENTS = 1_000
#: Policy words whose values are seconds.
_TIMES = frozenset({"wait", "max_time"})


class RouterAdmin(RouterAdminServicer):
    """`overspill.v1.RouterAdmin`."""

    def __init__(
        self,
        router: Router,
        watch: ClusterWatch,
        sites: Sequence[Site],
        ledger: Ledger,
        tally: Tally,
        forecast: Forecast,
    ) -> None:
        self._router = router
        self._forecast = forecast
        self._watch = watch
        self._sites = sites
        self._ledger = ledger
        self._tally = tally
        self._started_at_ms = _now_ms()

    async def Status(  # noqa: N802 - gRPC's name
        self,
        _request: pb.RouterStatusRequest,
        _context: grpc.aio.ServicerContext[pb.RouterStatusRequest, pb.RouterStatusResponse],
    ) -> pb.RouterStatusResponse:
        now, watch = time.monotonic(), self._watch
        response = pb.RouterStatusResponse(
            version=__version__,
            started_at_ms=self._started_at_ms,
            slurm_cluster=watch.slurm_cluster() or "",
            mode=watch.policy.mode.value,
            words=_words(watch.policy),
            problems=map(str, (*watch.problems, *watch.unknown_users)),
            is_queue_fresh=watch.fresh(now) is not None,
            sites=_site_statuses(self._sites, self._router.promised()),
            decisions=[
                pb.DecisionCount(verdict=verdict, reason=reason, count=count)
                for (verdict, reason), count in self._router.decision_counts()
            ],
            records=str(self._ledger.path or ""),
            records_problem=self._ledger.problem,
            accounts=_account_uses(watch),
            accounts_problem=self._tally.problem,
            late_changes=[
                pb.LateChangeCount(site=site, change=change, count=count)
                for (site, change), count in self._router.late_counts()
            ],
            wait_model_jobs=self._forecast.jobs,
            learned_after_jobs=self._forecast.enough_jobs,
        )
        if watch.picture is not None:
            response.queue_age_s = now - watch.picture.snapshot.asked_at
            response.queue_reader = watch.picture.snapshot.reader
        return response

    async def ListDecisions(  # noqa: N802 - gRPC's name
        self,
        request: pb.ListDecisionsRequest,
        _context: grpc.aio.ServicerContext[pb.ListDecisionsRequest, pb.ListDecisionsResponse],
    ) -> pb.ListDecisionsResponse:
        found = await self._ledger.find(
            Search(
                owner=request.user_id if request.HasField("user_id") else None,
                name=request.decision_id or None,
                from_ms=request.from_ms,
                to_ms=request.to_ms or _FOREVER_MS,
                limit=request.limit or _USUAL_LIMIT,
            )
        )
        return pb.ListDecisionsResponse(decisions=map(pb.DecisionRecord.FromString, found))


class RelayAdmin(RelayAdminServicer):
    """`overspill.v1.RelayAdmin`."""

    def __init__(self, sites: Sequence[Site], ledger: Ledger, count_jobs: Callable[[], int]) -> None:
        self._sites = sites
        self._ledger = ledger
        self._count_jobs = count_jobs
        self._started_at_ms = _now_ms()

    async def Status(  # noqa: N802 - gRPC's name
        self,
        _request: pb.RelayStatusRequest,
        _context: grpc.aio.ServicerContext[pb.RelayStatusRequest, pb.RelayStatusResponse],
    ) -> pb.RelayStatusResponse:
        return pb.RelayStatusResponse(
            version=__version__,
            started_at_ms=self._started_at_ms,
            sites=_site_statuses(self._sites, {}),
            jobs=self._count_jobs(),
            records=str(self._ledger.path or ""),
            records_problem=self._ledger.problem,
        )

    async def ListSiteRuns(  # noqa: N802 - gRPC's name
        self,
        _request: pb.ListSiteRunsRequest,
        _context: grpc.aio.ServicerContext[pb.ListSiteRunsRequest, pb.ListSiteRunsResponse],
    ) -> pb.ListSiteRunsResponse:
        response = pb.ListSiteRunsResponse()
        for site in self._sites:
            try:
                response.runs.extend(_site_run(site.name, run) for run in await site.list_runs())
            except OverspillError as error:
                response.problems.append(f"{site.name}: {error.reason}")
        return response

    async def ListEvents(  # noqa: N802 - gRPC's name
        self,
        request: pb.ListEventsRequest,
        _context: grpc.aio.ServicerContext[pb.ListEventsRequest, pb.ListEventsResponse],
    ) -> pb.ListEventsResponse:
        found = await self._ledger.find(Search(owner=request.slurm_job_id, limit=_MOST_EVENTS))
        return pb.ListEventsResponse(events=map(pb.JobEvent.FromString, reversed(found)))


async def serve_router_admin(service: RouterAdmin, path: Path) -> grpc.aio.Server:
    """Start to answer on `path`, which only our own user and root may open. The caller holds its `SocketPath`."""
    server = grpc.aio.server()
    add_RouterAdminServicer_to_server(service, server)
    return await _started(server, path)


async def serve_relay_admin(service: RelayAdmin, path: Path) -> grpc.aio.Server:
    """Start to answer on `path`, which only our own user and root may open. The caller holds its `SocketPath`."""
    server = grpc.aio.server()
    add_RelayAdminServicer_to_server(service, server)
    return await _started(server, path)


async def _started(server: grpc.aio.Server, path: Path) -> grpc.aio.Server:
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    path.chmod(0o600)  # noqa: ASYNC240 - a socket file's mode, once
    return server


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _words(policy: Policy) -> list[pb.PolicyWord]:
    return [pb.PolicyWord(word=str(key), value=_shown(key, value)) for key, value in sorted(policy.words.items())]


def _shown(key: WordKey, value: object) -> str:
    """Return the value as slurm.conf would have it; a bare number of time would be minutes there."""
    if isinstance(value, tuple):
        return "+".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if key.key in _TIMES and isinstance(value, int):
        return f"{value // 3600:02}:{value // 60 % 60:02}:{value % 60:02}"
    return str(value)


def _account_uses(watch: ClusterWatch) -> list[pb.AccountUse]:
    """Return what is told of each account that has or had diverted jobs today, or that a word names."""
    used = (watch.picture.queue.used if watch.picture else None) or {}
    named = {key.at for key in watch.policy.words if key.at and WORDS[key.key].scope is Scope.ACCOUNT}
    return [
        message_of_budget(budget_of(name, watch.policy, used.get(name, AccountUse()), AccountUse()))
        for name in sorted(used.keys() | named)
    ]


def _site_statuses(sites: Sequence[Site], promised: Mapping[str, Amount]) -> list[pb.SiteStatus]:
    now = time.monotonic()
    return [_site_status(site, promised.get(site.name, Amount()), now) for site in sites]


def _site_status(site: Site, promised: Amount, now: float) -> pb.SiteStatus:
    view, contact = site.view(now), site.contact
    status = pb.SiteStatus(
        name=site.name,
        partition=view.partition,
        agent=site.config.agent,
        is_reachable=view.is_reachable,
        since_ms=round(contact.since_unix_s * 1000),
        reason="" if view.is_reachable else contact.reason or "it has not answered for a while",
        promised_cpus=promised.cpus,
        promised_memory_mib=promised.memory_mib,
        version=contact.version,
        total_gpus=contact.total_gpus,
        delay_s=view.delay_s,
        price=view.price,
    )
    if view.capacity is not None:
        status.total_cpus, status.total_memory_mib = view.capacity.total.cpus, view.capacity.total.memory_mib
        status.free_cpus, status.free_memory_mib = view.capacity.free.cpus, view.capacity.free.memory_mib
        status.slots.extend(map(_site_slots, view.capacity.slots))
        status.images.extend(sorted(view.capacity.images))
        status.features.extend(sorted(view.capacity.features or ()))
    if contact.clock_skew_s is not None:
        status.clock_skew_ms = round(contact.clock_skew_s * 1000)
    return status


def _site_slots(group: SlotGroup) -> pb.SiteSlots:
    size = group.size
    return pb.SiteSlots(
        count=group.count, cpus=size.cpus, memory_mib=size.memory_mib, gpus=size.gpus, gpu_type=group.gpu_type
    )


def _site_run(site: str, run: agent_pb2.RunSummary) -> pb.SiteRun:
    return pb.SiteRun(
        site=site,
        run_id=run.run_id,
        slurm_job_id=run.request_id.slurm_job_id,
        restart_count=run.request_id.restart_count,
        state=agent_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_"),
    )
