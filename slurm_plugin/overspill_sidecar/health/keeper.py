"""Keeps each site's virtual nodes as the site's health wants them: drained while no job should start there.

The router, in another process or not, sees drained nodes and keeps jobs at home; Slurm starts none on them; `sinfo -R`
tells the admin why. A relay that stops leaves them as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog

from overspill.errors import OverspillError
from overspill_sidecar.cluster import Node, Snapshot
from overspill_sidecar.config import HealthConfig
from overspill_sidecar.health import wanted
from overspill_sidecar.health.breaker import Phase
from overspill_sidecar.health.record import HealthRecord
from overspill_sidecar.health.wanted import Changes, Closure, Reachability
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import ClusterView
from overspill_sidecar.watch import ClusterWatch

_log = structlog.get_logger(__name__)

_TICK_S = 1.0
#: Pauses after Slurm has refused: each twice as long as the one before.
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0


class NodeKeeper:
    """The loop over all sites. Holds nothing that the nodes' reasons do not tell, but for the growth of pauses."""

    def __init__(
        self,
        watch: ClusterWatch,
        view: ClusterView,
        sites: Sequence[Site],
        record: HealthRecord,
        config: HealthConfig,
    ) -> None:
        self._watch = watch
        self._sites = [
            SiteNodes(site, view, record, Reachability(config.drain_after_s, config.resume_after_s)) for site in sites
        ]
        self._record = record

    async def run(self) -> None:
        """Look every second, and at once when a site has failed too often, until cancelled."""
        while True:
            for site in self._sites:
                try:
                    if picture := self._watch.picture:
                        await site.step(picture.snapshot, time.monotonic(), time.time())
                except Exception:  # noqa: BLE001 - the loop's edge; logged with its traceback
                    _log.exception("looking after virtual nodes failed", action="nodes_failed", site=site.name)
            await self._next_tick()

    async def _next_tick(self) -> None:
        try:
            async with asyncio.timeout(_TICK_S):
                await self._record.has_opened.wait()
        except TimeoutError:
            return
        self._record.has_opened.clear()


class SiteNodes:
    """One site's virtual nodes."""

    def __init__(self, site: Site, view: ClusterView, record: HealthRecord, reachability: Reachability) -> None:
        self.name = site.name
        self._site = site
        self._view = view
        self._record = record
        self._reachability = reachability
        self._is_breaker_known = False
        #: Nodes that the SPANK plugin has drained and that were not tried again since.
        self._handed_back: set[str] = set()
        self._acted_at = float("-inf")
        self._retry_at = 0.0
        self._pause_s = _FIRST_PAUSE_S

    async def step(self, snapshot: Snapshot, now: float, unix_time_s: float) -> Changes:
        """Compare what is wanted with what is seen, act, and return what was to be done."""
        self._reachability.observe(now, unix_time_s, is_reachable=self._site.view(now).is_reachable)
        seen = {node.name: node for node in snapshot.nodes_of(self._site.config.partition)}
        nodes = {name: seen[name] for name in self._site.config.virtual_nodes(seen) if name in seen}
        if not self._is_breaker_known:
            self._take_up_breaker(nodes, now, unix_time_s)
        is_old = snapshot.asked_at < self._acted_at
        if is_old or self._reachability.is_out is None or now < self._retry_at:
            return Changes()
        closure, resting = self._closure(now, unix_time_s), self._resting(nodes, now)
        todo = wanted.changes(nodes.values(), closure, resting)
        if todo:
            await self._act(sorted({*todo.drain, *todo.undrain}), closure, resting, now)
        return todo

    def _take_up_breaker(self, nodes: Mapping[str, Node], now: float, unix_time_s: float) -> None:
        """Go on with the pause that an earlier relay has begun."""
        self._is_breaker_known = True
        tries = [retry for node in nodes.values() if (retry := wanted.next_try(node, self.name)) is not None]
        if tries:
            self._record.site(self.name).open_until(now + max(tries) - unix_time_s)

    def _closure(self, now: float, unix_time_s: float) -> Closure | None:
        breaker = self._record.site(self.name)
        if self._reachability.is_out:
            return wanted.unreachable(self.name, self._reachability.out_since_unix_s)
        if reason := self._site.contact.takes_no_runs:
            return wanted.drained_there(self.name, reason)
        if breaker.phase(now) is Phase.OPEN:
            return wanted.failing(self.name, breaker.tally, unix_time_s + breaker.retry_at - now)
        return None

    def _resting(self, nodes: Mapping[str, Node], now: float) -> frozenset[str]:
        """Return the nodes that the SPANK plugin has drained and that are to be left so for now."""
        drained = {name for name, node in nodes.items() if wanted.could_not_hand_over(node)}
        breakers = {name: self._record.node(name) for name in drained}
        is_open = {name: breaker.phase(now) is Phase.OPEN for name, breaker in breakers.items()}
        for name in drained - self._handed_back:
            breakers[name].trip(now)
            is_open[name] = True
        self._handed_back = drained
        return frozenset(name for name in drained if is_open[name])

    async def _act(self, names: Sequence[str], closure: Closure | None, resting: frozenset[str], now: float) -> None:
        """Do what is to be done about nodes as they are this moment: an admin may just have drained one."""
        try:
            nodes = await self._view.nodes(names)
            todo = wanted.changes(nodes.values(), closure, resting)
            if todo.drain and closure is not None:
                await self._view.drain(todo.drain, closure.reason)
                facts = {"nodes": todo.drain, "site": self.name, "reason": closure.reason}
                _log.warning("virtual nodes drained", action="nodes_drained", **facts)
            if todo.undrain:
                await self._view.undrain(todo.undrain)
                self._handed_back.difference_update(todo.undrain)
                _log.info("virtual nodes undrained", action="nodes_undrained", nodes=todo.undrain, site=self.name)
        except OverspillError as error:
            if self._pause_s == _FIRST_PAUSE_S:
                _log.warning("Slurm does not change nodes", action="nodes_refused", nodes=names, reason=error.reason)
            self._retry_at, self._pause_s = now + self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        else:
            self._pause_s = _FIRST_PAUSE_S
            self._acted_at = time.monotonic()
