"""The sites: one channel to each agent for the life of the process, its health, and its capacity."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from overspill.errors import OverspillError, RequestError
from overspill.v1 import agent_pb2
from overspill_sidecar.config import SiteConfig
from overspill_sidecar.decision.capacity import Amount, SiteCapacity, SiteView, SlotGroup
from overspill_sidecar.sites.agent_link import AgentLink, AttachCall

_log = structlog.get_logger(__name__)

#: Capacity must come within this time; a site that is slower than that is of no use for a decision.
_CAPACITY_DEADLINE_S = 3.0
#: How often to look whether Slurm has told the cluster's name.
_NAME_POLL_S = 0.1
#: One lost poll is no outage.
_FAILURES_TO_CLOSE = 2
#: Submit stores the run before it answers; the spec may be megabytes.
_SUBMIT_DEADLINE_S = 30.0
_UNARY_DEADLINE_S = 10.0
#: Of a reason that a site gives: Slurm shows it to everybody.
_MOST_REASON_CHARACTERS = 100
#: What users may be told of as an image or a feature; a site's word is not trusted to be one.
_WORD = re.compile(r"[\w.:-]{1,64}", re.ASCII)
#: As agent.proto promises: Decide looks at each.
_MOST_SLOT_GROUPS = 256


@dataclass(frozen=True, slots=True)
class Contact:
    """What the polls have shown of the way to an agent, for people.

    Attributes:
        since_unix_s: since when `is_reachable` is what it is.
        reason: why not.
        clock_skew_s: the agent's clock less ours, give or take half a round trip; None where it does not tell.
        version: the agent's; empty where it does not tell.
        total_gpus: what it offers to this cluster.
        takes_no_runs: why its operator lets no new run in; empty if runs are taken.
    """

    is_reachable: bool
    since_unix_s: float
    reason: str = "it has not answered yet"
    clock_skew_s: float | None = None
    version: str = ""
    total_gpus: int = 0
    takes_no_runs: str = ""


class Site:
    """One agent.

    Its RPCs raise what `overspill.errors.from_rpc_error` makes of the status; a retry can help where
    `is_retryable` says so.
    """

    def __init__(self, config: SiteConfig, slurm_cluster: Callable[[], str | None], home: str = "") -> None:
        """Open the channel, which connects by itself; needs a running event loop.

        Args:
            config: where the agent is and how to talk to it.
            slurm_cluster: returns this cluster's name, None while Slurm has not told it.
            home: the relay's name, under which it renews the leases of its runs; empty if this is none.

        Raises:
            ConfigError: if a PEM file cannot be read.
        """
        self.config = config
        self._slurm_cluster = slurm_cluster
        self._link = AgentLink(config.agent, config.tls_files)
        self.home = home
        self._lease_id = 0
        self._knows_leases = True
        self._silent_since = time.monotonic()
        self._capacity: SiteCapacity | None = None
        self._delay_s: float | None = None
        self._failures = _FAILURES_TO_CLOSE
        self._heard_at = float("-inf")
        self._is_outage_known = False
        self._contact = Contact(is_reachable=False, since_unix_s=time.time())

    @property
    def name(self) -> str:
        return self.config.name

    def view(self, now: float) -> SiteView:
        """Return the site as of its last polls; one that was not heard for several polls counts as unreachable."""
        silence_s = max(3 * self.config.poll_s, 2 * _CAPACITY_DEADLINE_S)
        is_reachable = self._failures < _FAILURES_TO_CLOSE and now - self._heard_at <= silence_s
        return SiteView(
            self.name,
            self.config.partition,
            is_reachable,
            self._capacity,
            self._delay_s,
            self.config.price_per_cpu_hour,
        )

    @property
    def contact(self) -> Contact:
        return self._contact

    async def run(self) -> None:
        """Poll the capacity until cancelled."""
        while True:
            if slurm_cluster := self._slurm_cluster():
                was_out = self._failures >= _FAILURES_TO_CLOSE
                await self.poll(slurm_cluster)
                if was_out and self._failures == 0:
                    # The site knows by this that its answer has arrived: a lease that was over begins anew, and the
                    # first run that comes is not ended for the silence before it.
                    await self.poll(slurm_cluster)
                await asyncio.sleep(self.config.poll_s)
            else:
                await asyncio.sleep(_NAME_POLL_S)

    async def poll(self, slurm_cluster: str) -> None:
        """Ask for the capacity once and take note of the answer, or of there being none."""
        request = agent_pb2.CapacityRequest(
            slurm_cluster=slurm_cluster, home=self.home, confirmed_lease_id=self._lease_id
        )
        asked_at_unix_s = time.time()
        try:
            answer = await self._link.ask(lambda agent: agent.Capacity, request, _CAPACITY_DEADLINE_S)
        except OverspillError as error:
            self._failures += 1
            self._note_failure(error.reason)
            if self._failures >= _FAILURES_TO_CLOSE and not self._is_outage_known:
                _log.warning("site is unreachable", action="site_unreachable", site=self.name, reason=error.reason)
                self._is_outage_known = True
            return
        if self._failures >= _FAILURES_TO_CLOSE:
            _log.info("site is reachable", action="site_reachable", site=self.name, cpus=answer.total.cpus)
        self._failures = 0
        self._lease_id, self._knows_leases = answer.lease_id, answer.lease_id != 0
        self._silent_since = time.monotonic()
        self._is_outage_known = False
        self._heard_at = time.monotonic()
        self._capacity = _capacity(answer)
        self._delay_s = answer.start_delay_ms / 1000 if answer.HasField("start_delay_ms") else None
        self._note_answer(answer, asked_at_unix_s)

    def _note_failure(self, reason: str) -> None:
        if self._failures >= _FAILURES_TO_CLOSE:
            since = time.time() if self._contact.is_reachable else self._contact.since_unix_s
            self._contact = replace(self._contact, is_reachable=False, since_unix_s=since, reason=reason)

    def _note_answer(self, answer: agent_pb2.CapacityResponse, asked_at_unix_s: float) -> None:
        now = time.time()
        since = self._contact.since_unix_s if self._contact.is_reachable else now
        skew = answer.now_ms / 1000 - (asked_at_unix_s + now) / 2 if answer.now_ms else None
        refusal = _for_people(answer.takes_no_runs)
        if refusal != self._contact.takes_no_runs:
            _log.info("site's drain has changed", action="site_drain_changed", site=self.name, reason=refusal)
        self._contact = Contact(True, since, "", skew, answer.version, answer.total.gpus, refusal)

    def is_lease_over(self, now: float) -> bool:
        """Tell whether every run that this relay has submitted is dead, because the site has been silent for so long.

        The site ends a run that has heard nothing of its home for the lease; the margin is for the killing, for clocks
        and for a Submit that was still on its way. What an earlier relay heard and sent is not known: silence begins
        with this one.
        """
        lease_s = self.config.lease_s + self.config.lease_margin_s
        return self._knows_leases and now - self._silent_since > lease_s

    async def is_connected(self, timeout_s: float) -> bool:
        """Wait for the channel to connect. After False, no request has left this host."""
        return await self._link.is_connected(timeout_s)

    async def submit(self, request: agent_pb2.SubmitRequest) -> agent_pb2.SubmitResponse:
        """Sign and store a run. Idempotent by its request id."""
        self._link.sign(request)
        # Whether it arrives or not: a run that it makes has its whole lease before it.
        before, began_at = self._silent_since, time.monotonic()
        self._silent_since = began_at
        try:
            return await self._link.ask(lambda agent: agent.Submit, request, _SUBMIT_DEADLINE_S)
        except RequestError:
            # It made none. Who is refused for as long as he asks must not wait for ever.
            if self._silent_since == began_at:
                self._silent_since = before
            raise

    def attach(self) -> AttachCall:
        """Begin to follow a run; the caller writes `open` first. Without a deadline: runs last for days."""
        return self._link.attach()

    async def signal(self, request: agent_pb2.SignalRequest) -> None:
        """Have a signal stored. Idempotent by its sequence number."""
        await self._link.ask(lambda agent: agent.Signal, request, _UNARY_DEADLINE_S)

    async def stop(self, run_id: str, reason: str) -> None:
        """End a run. Idempotent."""
        await self._link.ask(
            lambda agent: agent.Stop, agent_pb2.StopRequest(run_id=run_id, reason=reason), _UNARY_DEADLINE_S
        )

    async def release(self, run_id: str) -> None:
        """Let the agent forget an ended run. Idempotent."""
        await self._link.ask(lambda agent: agent.Release, agent_pb2.ReleaseRequest(run_id=run_id), _UNARY_DEADLINE_S)

    async def list_runs(self) -> Sequence[agent_pb2.RunSummary]:
        """Return this cluster's runs that are not released."""
        return (await self._link.ask(lambda agent: agent.ListRuns, agent_pb2.ListRunsRequest(), _UNARY_DEADLINE_S)).runs

    async def renew(self, signing_request: bytes) -> agent_pb2.RenewResponse:
        """Have the next certificate issued. Each call issues one."""
        request = agent_pb2.RenewRequest(signing_request=signing_request)
        return await self._link.ask(lambda agent: agent.Renew, request, _UNARY_DEADLINE_S)

    async def close(self) -> None:
        await self._link.close()


def _capacity(answer: agent_pb2.CapacityResponse) -> SiteCapacity:
    return SiteCapacity(
        total=_amount(answer.total),
        free=_amount(answer.free),
        largest_free=_amount(answer.largest_free),
        slots=tuple(
            SlotGroup(group.count, _amount(group.size), _amount(group.free), group.size.gpu_type.lower())
            for group in answer.slots[:_MOST_SLOT_GROUPS]
        ),
        images=_words(answer.images),
        features=_words(answer.features) if answer.backend else None,
        used=_amount(answer.used) if answer.HasField("used") else None,
    )


def _words(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word for word in words if _WORD.fullmatch(word))


def _amount(resources: agent_pb2.Resources) -> Amount:
    return Amount(resources.cpus, resources.memory_mib, resources.gpus)


def _for_people(reason: str) -> str:
    """Return a site's words without what could pretend to be more than one line."""
    return "".join(char for char in reason if char.isprintable())[:_MOST_REASON_CHARACTERS]
