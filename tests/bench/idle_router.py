"""A router that knows the answer: what a decision costs beyond this is the router's own work. Argument: its socket."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from overspill.v1 import router_pb2
from overspill_sidecar.unary import UnaryServer

_ANSWER = router_pb2.DecideResponse(
    verdict=router_pb2.DecideResponse.VERDICT_LOCAL, decision_id="0" * 16, reason="wait_below_threshold"
).SerializeToString()

if __name__ == "__main__":
    server = UnaryServer(Path(sys.argv[1]), {"/overspill.v1.Router/Decide": lambda _: _ANSWER})
    asyncio.run(server.run(asyncio.Event()))
