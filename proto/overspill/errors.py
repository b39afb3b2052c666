"""Everything that goes wrong on purpose.

OverspillError
├── RequestError            the user or the caller must change something; repeating it is useless
│   ├── InvalidRequestError     the request makes no sense anywhere
│   ├── NotPermittedError       the caller may not do this
│   ├── NotFoundError           no such run, as far as the caller may know
│   └── UnrunnableError         this site can never run it
├── TransientError          nobody's fault; the same request may succeed later
│   ├── UnavailableError        the peer does not answer
│   └── ExhaustedError          the peer is full
└── AdminError              a defect or a misconfiguration; an admin must act
    └── ConfigError             a configuration file says something impossible

Each has a gRPC status code, so that one interceptor can put it on the wire and one function can take it off.
"""

from __future__ import annotations

import re
from typing import ClassVar

from overspill import grpc_settings  # noqa: F401 - before gRPC is loaded

# isort: split
import grpc


class OverspillError(Exception):
    """Something Overspill knows how to name.

    Attributes:
        code: what the error is on the wire.
        is_retryable: whether the same request may succeed later.
        reason: one sentence for the person who must act.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    is_retryable: ClassVar[bool] = False

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def kind(self) -> str:
        """The class in one stable word, for logs and metrics: "not_permitted", "exhausted"."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__.removesuffix("Error")).lower()


class RequestError(OverspillError):
    """The request must change before it can succeed."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class InvalidRequestError(RequestError):
    """The request makes no sense anywhere."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotPermittedError(RequestError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class NotFoundError(RequestError):
    """There is no such thing, as far as the caller may know."""

    code = grpc.StatusCode.NOT_FOUND


class UnrunnableError(RequestError):
    """This site can never run it; another may."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class TransientError(OverspillError):
    """The same request may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE
    is_retryable = True


class UnavailableError(TransientError):
    """The peer does not answer, or not in time."""

    code = grpc.StatusCode.UNAVAILABLE


class ExhaustedError(TransientError):
    """The peer is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class AdminError(OverspillError):
    """An admin must act."""

    code = grpc.StatusCode.INTERNAL


class ConfigError(AdminError):
    """A configuration file says something impossible."""


_BY_CODE: dict[grpc.StatusCode, type[OverspillError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.PERMISSION_DENIED: NotPermittedError,
    grpc.StatusCode.UNAUTHENTICATED: NotPermittedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: UnrunnableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.ABORTED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
}


def from_rpc_error(error: grpc.RpcError) -> OverspillError:
    """Return what a failed RPC means, in the peer's own words where there are any: users read them.

    A status that nobody sends on purpose is the peer's defect: AdminError, which names it.
    """
    code = error.code() if callable(getattr(error, "code", None)) else grpc.StatusCode.UNKNOWN
    details = error.details() if callable(getattr(error, "details", None)) else None
    meaning = _BY_CODE.get(code)
    if meaning is None:
        return AdminError(f"{details or 'no details'} ({code.name})")
    return meaning(details or f"no details ({code.name})")
