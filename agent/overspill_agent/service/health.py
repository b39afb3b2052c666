"""`grpc.health.v1.Health` on the agent's port: whether the agent lives, and whether it takes new runs."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

from overspill.errors import OverspillError
from overspill.v1 import agent_pb2
from overspill_agent.drain import Drain
from overspill_agent.registry import Registry

log = structlog.get_logger(__name__)

#: The service that is NOT_SERVING while new runs are refused; the overall health ("") says only that the agent lives.
SERVICE: Final = agent_pb2.DESCRIPTOR.services_by_name["Agent"].full_name

_INTERVAL_S = 2.0
#: A store that takes longer than this is of no use to anybody who waits for an answer.
_DEADLINE_S = 5.0


class Health:
    """Looks at intervals, so that a probe costs nothing and waits for nothing."""

    def __init__(self, registry: Registry, drain: Drain) -> None:
        """Begin as one that takes runs; the first look is due at once."""
        self._registry = registry
        self._drain = drain
        self._servicer = aio.HealthServicer()
        self.takes_runs = True

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def run(self) -> None:
        """Look at intervals until cancelled; the health is NOT_SERVING from then on."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(_INTERVAL_S)
        finally:
            await self._servicer.enter_graceful_shutdown()

    async def look(self) -> None:
        """Find out whether a run could be stored now, and tell where that has changed."""
        reason = await self._why_not()
        status = health_pb2.HealthCheckResponse.NOT_SERVING if reason else health_pb2.HealthCheckResponse.SERVING
        await self._servicer.set(SERVICE, status)
        if reason and self.takes_runs:
            log.warning("the agent takes no new runs", action="agent_not_serving", reason=reason)
        elif not reason and not self.takes_runs:
            log.info("the agent takes new runs again", action="agent_serving")
        self.takes_runs = not reason

    async def _why_not(self) -> str:
        if reason := self._drain.reason:
            return reason
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await self._registry.check()
        except TimeoutError:
            return f"the agent's store gives no answer within {_DEADLINE_S:g} s"
        except OverspillError as error:
            return error.reason
        except Exception:
            log.exception("the agent cannot tell its health", action="health_failed")
            return "a defect in the agent; its log says more"
        return ""
