"""`grpc.health.v1.Health/Check` on the router's socket."""

from __future__ import annotations

import time
from typing import Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from overspill.errors import InvalidRequestError, NotFoundError
from overspill.v1 import router_pb2
from overspill_sidecar.watch import ClusterWatch

CHECK: Final = "/grpc.health.v1.Health/Check"
#: The service that is NOT_SERVING while nothing can be diverted; the overall health ("") says only that we live.
SERVICE: Final = router_pb2.DESCRIPTOR.services_by_name["Router"].full_name

_OVERALL = ""


class RouterHealth:
    """Answers probes. A router that does not know the queue lives and answers, but everything stays at home."""

    def __init__(self, watch: ClusterWatch) -> None:
        self._watch = watch

    def check(self, message: bytes) -> bytes:
        """Answer an encoded HealthCheckRequest.

        Raises:
            InvalidRequestError: if it is none.
            NotFoundError: if it names a service that is not ours.
        """
        try:
            service = health_pb2.HealthCheckRequest.FromString(message).service
        except DecodeError as error:
            raise InvalidRequestError(f"no HealthCheckRequest: {error}") from error
        if service not in {_OVERALL, SERVICE}:
            raise NotFoundError(f"there is no service {service}")
        is_serving = service == _OVERALL or self._watch.fresh(time.monotonic()) is not None
        status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())
