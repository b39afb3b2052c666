"""How a cluster gets its first certificate: over HTTPS, without one. `overspill.enrolment` says what is asked how."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from overspill.certificates import utc_now
from overspill.enrolment import CA_PATH, ENROLL_PATH
from overspill.errors import NotPermittedError
from overspill_agent.pki import Authority, Invitations
from overspill_agent.pki.authority import check_signing_request

log = structlog.get_logger(__name__)

_MOST_BODY_BYTES = 16 * 1024
_BODY_TIMEOUT_S = 10.0
#: Requests to enroll that are looked at, from one address: clusters enroll a few times in their lives. What guards the
#: codes is their 128 bits; this bounds what a stranger can make the agent do, and keeps nobody else from enrolling.
MOST_PER_MINUTE = 20
#: From all addresses together.
_MOST_OF_ALL = 600


class _Enroll(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    invitation: str = Field(pattern=r"^[0-9a-f]{12}$")
    secret: str = Field(pattern=r"^[0-9a-f]{32}$")
    signing_request: str = Field(max_length=_MOST_BODY_BYTES)


class Enrolment:
    """Redeems invitations of the site's authority."""

    def __init__(self, authority: Authority) -> None:
        """Represent `authority`, which need not exist: then every request is answered 404."""
        self._authority = authority
        self._invitations = Invitations(authority)
        self._turn = asyncio.Lock()
        self._minute = 0
        self._in_minute: Counter[str] = Counter()

    def routes(self) -> list[Route]:
        return [
            Route(CA_PATH, self.get_ca, methods=["GET"]),
            Route(ENROLL_PATH, self.post_enroll, methods=["POST"]),
        ]

    async def get_ca(self, _request: Request) -> Response:
        self._check_exists()
        return PlainTextResponse(self._authority.ca_pem, media_type="application/x-pem-file")

    async def post_enroll(self, request: Request) -> Response:
        self._check_exists()
        client = request.client.host if request.client else ""
        self._check_rate(client)
        wanted = await _body(request)
        async with self._turn:
            try:
                answer = await asyncio.to_thread(self._enroll, wanted)
            except NotPermittedError as error:
                log.warning("enrolment refused", action="enrolment_refused", client=client, reason=error.reason)
                raise HTTPException(403, error.reason) from error
        log.info("cluster enrolled", action="cluster_enrolled", client=client, slurm_cluster=answer["slurm_cluster"])
        return JSONResponse(answer)

    def _enroll(self, wanted: _Enroll) -> dict[str, str]:
        """Return the answer.

        Raises:
            NotPermittedError: the invitation cannot be used.
            InvalidRequestError: the signing request makes no sense; the invitation stays.
        """
        request, now = wanted.signing_request.encode(), utc_now()
        check_signing_request(request)
        cluster = self._invitations.redeem(bytes.fromhex(wanted.invitation), bytes.fromhex(wanted.secret), now)
        certificate = self._authority.issue_to_cluster(cluster, request, now, how="enroll")
        return {
            "slurm_cluster": cluster,
            "certificate": certificate.decode("ascii"),
            "ca": self._authority.ca_pem.decode("ascii"),
        }

    def _check_exists(self) -> None:
        if not self._authority.exists:
            raise HTTPException(404, "this site has no certificate authority of its own; ask its operator")

    def _check_rate(self, client: str) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._in_minute = minute, Counter()
        if self._in_minute[client] >= MOST_PER_MINUTE or self._in_minute.total() >= _MOST_OF_ALL:
            raise HTTPException(429, "too many requests to enroll; try again in a minute")
        self._in_minute[client] += 1


async def _body(request: Request) -> _Enroll:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > _MOST_BODY_BYTES:
                    raise HTTPException(413, "the request is too long")
        return _Enroll.model_validate(json.loads(body))
    except (ValueError, ValidationError):
        raise HTTPException(400, "the request makes no sense; use `overspill enroll`") from None
    except TimeoutError:
        raise HTTPException(408, "the request did not come in time") from None
