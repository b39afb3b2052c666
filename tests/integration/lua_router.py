"""A router on a real gRPC server whose answer depends on the job's name; a process, so that it can be killed.

Run as `python lua_router.py SOCKET [OPTION=INTEGER…]`, with gRPC channel options; prints a line once it listens.
"""

import sys
import time
from concurrent import futures

import grpc

from overspill.v1 import router_pb2, router_pb2_grpc


class NamedRouter(router_pb2_grpc.RouterServicer):
    """Diverts every job, unless its name asks for something else."""

    def Decide(  # noqa: N802 -- the name is gRPC's
        self, request: router_pb2.DecideRequest, context: grpc.ServicerContext
    ) -> router_pb2.DecideResponse:
        if request.job_name == "slow":
            time.sleep(1)
        elif request.job_name == "abort":
            context.abort(grpc.StatusCode.INTERNAL, "as asked")
        elif request.job_name == "refuse":
            return router_pb2.DecideResponse(verdict=router_pb2.DecideResponse.VERDICT_REFUSE, user_message="no")
        elif request.job_name == "local":
            return router_pb2.DecideResponse(verdict=router_pb2.DecideResponse.VERDICT_LOCAL)
        padding = {"huge": 1_000_000, "big": 60_000, "large": 5 * len(request.open_partitions)}.get(request.job_name, 0)
        return router_pb2.DecideResponse(
            verdict=router_pb2.DecideResponse.VERDICT_DIVERT,
            partition="batch,overspill",
            admin_comment='{"site":"a"}',
            reason="x" * padding,
        )


def main(path: str, *options: str) -> None:
    """Serve until killed."""
    channel_options = [(name, int(value)) for name, value in (option.split("=") for option in options)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=channel_options)
    router_pb2_grpc.add_RouterServicer_to_server(NamedRouter(), server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
