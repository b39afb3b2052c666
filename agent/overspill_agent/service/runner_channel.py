"""The HTTPS service for runners; `overspill.runner_protocol` says what each request means."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from overspill.errors import NotFoundError, OverspillError, RequestError, TransientError
from overspill.runner_protocol import INSTANCE_HEADER, PATH_PREFIX
from overspill.v1.agent_pb2 import RunSpec
from overspill_agent.registry import LiveRun, Registry
from overspill_agent.service.events import events
from overspill_agent.service.upload import Upload
from overspill_agent.spool import Stream

log = structlog.get_logger(__name__)

_UNLIMITED = 2**64 - 1
_STDIN_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class RunnerTerms:
    """What every runner of this site is told.

    Attributes:
        lease_s: without a word of this agent for so long it stops its job.
        spool_bytes: so much output it keeps on its disk while this agent is away.
        time_limit_grace_s: Slurm ends a job at its limit, and its signals take a while to come here: so much later the
            runner does.
    """

    lease_s: int
    spool_bytes: int
    time_limit_grace_s: int = 60


class RunnerChannel:
    """The requests of runners, each checked against its own attempt's token."""

    def __init__(self, registry: Registry, terms: RunnerTerms) -> None:
        self._registry = registry
        self._terms = terms

    def app(self, others: Sequence[Route] = ()) -> Starlette:
        """Return the ASGI application, with what else is served without client certificates."""
        base = f"{PATH_PREFIX}/{{run_id}}/{{attempt:int}}"
        routes = [
            Route(f"{base}/spec", self.get_spec, methods=["GET"]),
            Route(f"{base}/script", self.get_script, methods=["GET"]),
            Route(f"{base}/stdin", self.get_stdin, methods=["GET"]),
            Route(f"{base}/events", self.get_events, methods=["GET"]),
            Route(f"{base}/upload", self.post_upload, methods=["POST"]),
        ]
        return Starlette(routes=[*routes, *others], exception_handlers={OverspillError: _answer_error})

    async def get_spec(self, request: Request) -> Response:
        live = await self._authorise(request)
        if not live.run.is_ready:
            raise HTTPException(425, "standard input is not complete")
        attempt, instance = request.path_params["attempt"], request.headers.get(INSTANCE_HEADER, "")
        if not await self._registry.store.claim_attempt(live.run.run_id, attempt, instance):
            log.warning("attempt was started twice", action="double_start", run_id=live.run.run_id, attempt=attempt)
            raise HTTPException(409, "another runner has this attempt")
        document = spec_document(await self._spec(live), self._terms)
        # From here on the script may run: a signal that comes before this cancels the run, one after it is delivered.
        async with live.lock:
            if live.run.is_stop_wanted and live.run.started_at_ms is None:
                raise HTTPException(409, "the run is to be stopped")
            live.spec_given_to = attempt
            live.told_at = time.monotonic()
        return JSONResponse(document)

    async def get_script(self, request: Request) -> Response:
        live = await self._authorise(request)
        return Response((await self._spec(live)).script, media_type="application/octet-stream")

    async def get_stdin(self, request: Request) -> Response:
        live = await self._authorise(request)
        return StreamingResponse(_stdin(live), media_type="application/octet-stream")

    async def get_events(self, request: Request) -> Response:
        live = await self._authorise(request)
        stream = events(self._registry, live, live.run.attempt)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def post_upload(self, request: Request) -> Response:
        live = await self._authorise(request)
        try:
            await Upload(self._registry, live).take(request.stream())
        except ClientDisconnect:
            return Response(status_code=400)
        return Response()

    async def _authorise(self, request: Request) -> LiveRun:
        """Return the run that the request is about.

        Raises:
            HTTPException: 401, 404 or 409, as the protocol has it.
        """
        run_id, attempt = request.path_params["run_id"], request.path_params["attempt"]
        live = self._registry.find_live(run_id)
        if live is None:
            raise HTTPException(404, "no such run")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        digest = await self._registry.store.token_sha256(run_id, attempt)
        given = hashlib.sha256(token.encode()).digest()
        if scheme.lower() != "bearer" or digest is None or not hmac.compare_digest(digest, given):
            raise HTTPException(401, "wrong token")
        if live.run.has_ended or live.run.attempt != attempt:
            raise HTTPException(409, "this attempt is over")
        return live

    async def _spec(self, live: LiveRun) -> RunSpec:
        spec = await self._registry.store.spec(live.run.run_id)
        if spec is None:
            raise NotFoundError(f"run {live.run.run_id} is released")
        return RunSpec.FromString(spec)


def spec_document(spec: RunSpec, terms: RunnerTerms) -> dict[str, object]:
    """Return what `GET spec` says."""
    return {
        "argv": [_base64(argument) for argument in spec.argv],
        "environment": [_base64(entry) for entry in spec.environment],
        "cwd": _base64(spec.cwd),
        "umask": spec.umask,
        "rlimits": {limit.name: [_limit(limit.soft), _limit(limit.hard)] for limit in spec.rlimits},
        "has_stdin": spec.has_stdin,
        "is_output_joined": spec.is_output_joined,
        "time_limit_s": spec.time_limit_s,
        "time_limit_grace_s": terms.time_limit_grace_s,
        "kill_wait_s": spec.kill_wait_s,
        "lease_s": terms.lease_s,
        "spool_bytes": terms.spool_bytes,
    }


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _limit(value: int) -> int:
    return -1 if value == _UNLIMITED else value


async def _stdin(live: LiveRun) -> AsyncIterator[bytes]:
    offset = 0
    while data := await asyncio.to_thread(live.spool.read, Stream.STDIN, offset, _STDIN_PIECE_BYTES):
        offset += len(data)
        yield data


async def _answer_error(_request: Request, error: Exception) -> Response:
    """Return 400 for the runner's mistake, 404 for what is gone, 503 for what may be better later, 500 otherwise."""
    if isinstance(error, NotFoundError):
        status = 404
    elif isinstance(error, RequestError):
        status = 400
    else:
        status = 503 if isinstance(error, TransientError) else 500
    return PlainTextResponse(str(error), status_code=status)
