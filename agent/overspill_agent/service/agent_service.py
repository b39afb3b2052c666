"""The gRPC service for clusters' relays: checks who asks for what, then leaves it to the registry."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import structlog

from overspill import __version__
from overspill.certificates import utc_now
from overspill.errors import (
    ExhaustedError,
    InvalidRequestError,
    NotFoundError,
    OverspillError,
    TransientError,
    UnrunnableError,
)
from overspill.request_id import RequestId
from overspill.tls import Peer, peer_of
from overspill.v1 import agent_pb2 as pb
from overspill.v1 import agent_pb2_grpc
from overspill_agent import metrics, runs
from overspill_agent.backends.accounts import mapped_account, resolve_mapping
from overspill_agent.backends.base import Backend
from overspill_agent.capacity import largest, left
from overspill_agent.config import ClusterSection
from overspill_agent.drain import Drain
from overspill_agent.homes import Homes, name_of
from overspill_agent.limits import most_of, taken_by, within
from overspill_agent.pki import Authority
from overspill_agent.registry import LiveRun, Registry, holding_of, now_ms
from overspill_agent.runs import Resources, Run, Seen, SignalEffect
from overspill_agent.service.admission import check_caller, check_room, check_size, check_spec, check_spec_size, new_run
from overspill_agent.service.attach import AttachEndedError, Attachment
from overspill_agent.service.audit import submit_accepted, submit_refused
from overspill_agent.service.callers import Callers
from overspill_agent.service.interceptor import Context
from overspill_agent.service.terms import Terms
from overspill_agent.service.wire import (
    request_id_message,
    request_id_of,
    resources_message,
    resources_of,
    slot_groups,
    state_of,
)
from overspill_agent.store.store import StoredSignal

log = structlog.get_logger(__name__)

_SCOPES = {pb.SIGNAL_SCOPE_SHELL: "shell", pb.SIGNAL_SCOPE_TREE: "tree"}
#: Highest number in Linux's table of signals; the real-time ones end it.
_LAST_SIGNAL = 64


class AgentService(agent_pb2_grpc.AgentServicer):
    """`overspill.v1.Agent`. What each RPC promises stands in agent.proto."""

    def __init__(
        self,
        registry: Registry,
        backend: Backend,
        terms: Terms,
        callers: Callers,
        authority: Authority,
        homes: Homes,
        drain: Drain,
    ) -> None:
        self._registry = registry
        self._backend = backend
        self._terms = terms
        self._callers = callers
        self._authority = authority
        self._homes = homes
        self._drain = drain

    async def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.SubmitResponse:  # noqa: N802
        cluster = request.request_id.slurm_cluster
        # A cluster that the operator has not named must not make new labels.
        count = functools.partial(metrics.SUBMITS.labels, cluster if cluster in self._terms.accounts else "unknown")
        try:
            response = await self._submit(request, self._callers.identify(context))
        except OverspillError as error:
            count(error.kind).inc()
            submit_refused(request, peer_of(context), error.reason)
            raise
        count("accepted" if response.is_new else "repeated").inc()
        return response

    async def _submit(self, request: pb.SubmitRequest, caller: Peer) -> pb.SubmitResponse:
        request_id = request_id_of(request.request_id)
        check_caller(request_id.slurm_cluster, caller.names)
        await asyncio.to_thread(self._callers.verify_claim, request)
        first = await self._registry.store.find_request(request_id)
        if first is not None:
            return pb.SubmitResponse(run_id=first.run_id, state=state_of(first), is_new=False)
        if reason := self._drain.reason:
            raise ExhaustedError(f"the site takes no new runs: {reason}")
        check_spec(request.spec)
        limits = self._terms.limits_of(request_id.slurm_cluster)
        check_spec_size(request.spec, limits)
        run = await self._new_run(request_id, request.spec, limits)
        # Nothing is awaited from here until the registry counts the run: two never get the same room.
        check_room(run, self._registry.unfinished(), limits, self._backend.capacity())
        stored, is_new = await self._registry.accept(run, request.spec.SerializeToString(), request.claim)
        submit_accepted(request, caller, stored)
        return pb.SubmitResponse(run_id=stored.run_id, state=state_of(stored), is_new=is_new)

    async def _new_run(self, request_id: RequestId, spec: pb.RunSpec, limits: ClusterSection) -> Run:
        """Return the run that the site takes.

        Raises:
            OverspillError: why it does not.
        """
        mapped = mapped_account(self._terms.accounts, request_id.slurm_cluster, spec.user_name)
        account = (await asyncio.to_thread(resolve_mapping, mapped)).name
        image = self._terms.catalogue.choose(
            named=spec.image,
            constraint=spec.constraint,
            partition=spec.partition,
            resources=resources_of(spec.resources),
        )
        run = new_run(uuid.uuid4().hex, request_id, spec, account=account, image=image, at_ms=now_ms())
        check_size(holding_of(run), self._backend.capacity(), limits)
        await self._backend.check(
            self._terms.catalogue.demand(run.resources, run.gpu_type, image=image, constraint=spec.constraint)
        )
        return run

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Context
    ) -> AsyncIterator[pb.AttachResponse]:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("open"):
            raise InvalidRequestError("the first message of Attach must be `open`")
        live = await self._find(first.open.run_id, context)
        attachment = Attachment(self._registry, live, first.open)
        reading = asyncio.create_task(attachment.read(request_iterator), name=f"attach {live.run.run_id}")
        try:
            async for response in attachment.responses():
                yield response
        except AttachEndedError as end:
            await context.abort(end.code, end.reason)
        finally:
            reading.cancel()

    async def Signal(self, request: pb.SignalRequest, context: Context) -> pb.SignalResponse:  # noqa: N802
        scope = _SCOPES.get(request.scope)
        if scope is None or not 0 < request.signal <= _LAST_SIGNAL or request.signal_seq == 0:
            raise InvalidRequestError("a signal needs a number from 1 to 64, a scope and a sequence number from 1")
        live = await self._find(request.run_id, context)
        signal = StoredSignal(signal_seq=request.signal_seq, signal=request.signal, scope=scope)
        is_for_all = request.scope == pb.SIGNAL_SCOPE_TREE
        found_alive = await self._found_alive(live)

        def may_run(run: Run) -> bool:
            return run.attempt > 0 and run.attempt in (live.spec_given_to, found_alive)

        async def save(run: Run) -> None:
            effect = runs.signal_effect(run, signal.signal, is_for_all=is_for_all, may_run=may_run(run))
            if effect is SignalEffect.DELIVER:
                await self._registry.store.add_signal(run, signal)
                live.signals.append(signal)
            else:
                await self._registry.store.save(run)

        await self._registry.change(
            live,
            lambda run: runs.signal_asked(
                run, signal.signal_seq, signal.signal, is_for_all=is_for_all, may_run=may_run(run)
            ),
            save=save,
        )
        return pb.SignalResponse()

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopResponse:  # noqa: N802
        live = await self._find(request.run_id, context)
        reason = request.reason or "the cluster stopped the job"
        try:
            await self._registry.change(live, lambda run: runs.stop_wanted(run, reason))
        except TransientError as error:
            if not await self._kill(live):
                raise
            log.warning("stop is not stored", action="stop_not_stored", run_id=live.run.run_id, reason=error.reason)
        return pb.StopResponse()

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:  # noqa: N802
        live = await self._find(request.run_id, context)
        if not live.run.has_ended:
            raise UnrunnableError(f"run {request.run_id} has not ended; stop it first")
        await self._registry.release(live)
        return pb.ReleaseResponse()

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:  # noqa: N802, ARG002
        names = self._callers.identify(context).names
        summaries = [
            pb.RunSummary(
                run_id=live.run.run_id, request_id=request_id_message(live.run.request_id), state=state_of(live.run)
            )
            for live in self._registry.live()
            if live.run.request_id.slurm_cluster in names and not live.run.is_released
        ]
        return pb.ListRunsResponse(runs=summaries)

    async def Capacity(self, request: pb.CapacityRequest, context: Context) -> pb.CapacityResponse:  # noqa: N802
        check_caller(request.slurm_cluster, self._callers.identify(context).names)
        capacity = self._backend.capacity()
        limits = self._terms.limits_of(request.slurm_cluster)
        drained = self._drain.reason
        taken = taken_by(request.slurm_cluster, self._registry.unfinished())
        slots = within(
            limits,
            capacity.total,
            taken,
            left(capacity, self._registry.promised()),
        )
        if drained:
            slots = [replace(slot, usable=Resources()) for slot in slots]
        home = name_of(request.slurm_cluster, request.home)
        self._homes.confirm(home, request.confirmed_lease_id)
        return pb.CapacityResponse(
            total=resources_message(most_of(limits, capacity.total)),
            free=resources_message(sum((slot.usable for slot in slots), Resources())),
            largest_free=resources_message(largest(slots)),
            slots=slot_groups(slots),
            images=self._terms.catalogue.names,
            features=sorted(capacity.features | self._terms.catalogue.features),
            lease_id=self._homes.answer(home),
            now_ms=now_ms(),
            version=__version__,
            backend=self._terms.backend,
            takes_no_runs=drained,
            used=resources_message(sum(taken, Resources())),
            start_delay_ms=self._registry.delays.median_ms(now_ms()),
        )

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:  # noqa: N802
        caller = self._callers.identify(context)
        cluster = self._callers.renewable(caller)
        issue, check = self._authority.renew_for_cluster, functools.partial(self._callers.check_not_revoked, caller)
        certificate = await asyncio.to_thread(issue, cluster, request.signing_request, utc_now(), check)
        log.info("certificate renewed", action="certificate_renewed", slurm_cluster=cluster)
        return pb.RenewResponse(certificate=certificate, ca=self._authority.ca_pem)

    async def _kill(self, live: LiveRun) -> bool:
        """Kill a run whose stop cannot be stored, as with a full disk that it may have filled; False if none lives."""
        run = live.run
        if run.attempt == 0 or (await self._backend.observe(run.run_id, run.attempt)).seen is not Seen.ALIVE:
            return False
        await self._backend.stop(run.run_id, run.attempt)
        return True

    async def _found_alive(self, live: LiveRun) -> int:
        """Return the attempt that an earlier agent began and that lives, and so may have its script; else 0."""
        attempt = live.found_attempt
        if attempt == 0 or live.run.attempt != attempt or live.run.started_at_ms is not None or live.run.has_ended:
            return 0
        return attempt if (await self._backend.observe(live.run.run_id, attempt)).seen is Seen.ALIVE else 0

    async def _find(self, run_id: str, context: Context) -> LiveRun:
        """Return the caller's run; another cluster's is one that never was."""
        caller = self._callers.identify(context)
        live = await self._registry.get(run_id)
        if live.run.request_id.slurm_cluster not in caller.names:
            raise NotFoundError(f"there is no run {run_id}")
        return live
