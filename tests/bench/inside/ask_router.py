"""Asks the router for dry-run decisions and prints each answer's time in ms as JSON: ask_router.py SOCKET CALLS."""

from __future__ import annotations

import json
import sys
import time

import grpc

from overspill.v1 import router_pb2
from overspill.v1.router_pb2_grpc import RouterStub

_PAUSE_S = 0.005
_DEADLINE_S = 5.0


def main(socket: str, calls: int) -> None:
    """Call one after the other, so that the calls spread over several refreshes of the sidecar."""
    request = router_pb2.DecideRequest(has_script=True, num_tasks=1, user_id=2001, is_dry_run=True)
    samples = []
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        stub = RouterStub(channel)
        reason = stub.Decide(request, timeout=_DEADLINE_S, wait_for_ready=True).reason
        for _ in range(calls):
            began = time.perf_counter()
            stub.Decide(request, timeout=_DEADLINE_S)
            samples.append((time.perf_counter() - began) * 1e3)
            time.sleep(_PAUSE_S)
    json.dump({"reason": reason, "latencies_ms": samples}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
