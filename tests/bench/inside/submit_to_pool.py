"""Submits jobs to an HTCondor pool through `htcondor2` alone, each by itself and with its files, as one would by hand.

In, by JSON on standard input: {"collector": ..., "schedd": ..., "token_directory": ..., "description": {...},
"jobs": 1}. Out: {"took_s": seconds for all submissions}.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Obey the order on standard input."""
    import htcondor2  # noqa: PLC0415 - it reads its settings when it is imported

    order: dict[str, Any] = json.load(sys.stdin)
    htcondor2.param["SEC_TOKEN_DIRECTORY"] = order["token_directory"]
    htcondor2.param["SEC_CLIENT_AUTHENTICATION_METHODS"] = "IDTOKENS"
    for name in ("AUTHENTICATION", "ENCRYPTION", "INTEGRITY"):
        htcondor2.param[f"SEC_CLIENT_{name}"] = "REQUIRED"
    schedd = htcondor2.Schedd(
        htcondor2.Collector(order["collector"]).locate(htcondor2.DaemonType.Schedd, order["schedd"])
    )
    began = time.perf_counter()
    for _ in range(order["jobs"]):
        submitted = schedd.submit(htcondor2.Submit(order["description"]), spool=True)
        schedd.spool(submitted)
    json.dump({"took_s": time.perf_counter() - began}, sys.stdout)


if __name__ == "__main__":
    main()
