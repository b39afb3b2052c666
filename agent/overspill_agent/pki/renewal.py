"""The loop that renews the agent's own certificate."""

from __future__ import annotations

import asyncio

import structlog

from overspill.certificates import utc_now
from overspill.errors import ConfigError
from overspill_agent.pki.authority import Authority

log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S = 5.0
_SHORTEST_PAUSE_S = 1.0


async def keep_agent_certificate(authority: Authority) -> None:
    """Renew the certificate whenever that is due, until cancelled. It is shown from the next handshake on."""
    while True:
        try:
            renewed = await asyncio.to_thread(authority.renew_agent_if_due, utc_now())
        except (ConfigError, OSError) as error:
            log.error("certificate is not renewed", action="renewal_failed", reason=str(error))  # noqa: TRY400 - the reason says it
            renewed = None
        if renewed is not None:
            log.info(
                "certificate renewed",
                action="certificate_renewed",
                expires_at=f"{renewed.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            )
        await asyncio.sleep(min(_LONGEST_PAUSE_S, max(_SHORTEST_PAUSE_S, authority.life.total_seconds() / 20)))
