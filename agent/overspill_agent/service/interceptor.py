"""The one place where what went wrong becomes a status code: no traceback crosses the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog

from overspill.errors import AdminError, OverspillError

log = structlog.get_logger(__name__)

# Generic in their type stubs only, hence in quotes.
#: A reason may repeat what the caller has sent, and gRPC sends no more than 8 KiB of it.
MOST_REASON_CHARACTERS = 1000

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns `OverspillError` into its status; anything else is logged with its traceback and told as a defect."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is not None and handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _unary(handler.unary_unary, method), handler.request_deserializer, handler.response_serializer
            )
        if handler is not None and handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                _stream(handler.stream_stream, method), handler.request_deserializer, handler.response_serializer
            )
        return handler


def _unary(behaviour: Any, method: str) -> Any:
    async def guarded(request: object, context: Context) -> object:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  the edge of an RPC
            return await _abort(context, method, error)

    return guarded


def _stream(behaviour: Any, method: str) -> Any:
    async def guarded(requests: object, context: Context) -> AsyncIterator[object]:
        try:
            async for response in behaviour(requests, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  the edge of an RPC
            await _abort(context, method, error)

    return guarded


async def _abort(context: Context, method: str, error: Exception) -> NoReturn:
    if isinstance(error, OverspillError):
        if isinstance(error, AdminError):
            log.error("RPC failed", action="rpc_failed", method=method, reason=error.reason)
        await context.abort(error.code, error.reason[:MOST_REASON_CHARACTERS])
    log.error("RPC failed", action="rpc_failed", method=method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "a defect in the agent; its log says more")
