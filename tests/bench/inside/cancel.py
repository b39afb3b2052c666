"""Cancels jobs one by one and prints, as JSON, the Unix time in ns just before each scancel: cancel.py PAUSE_S ID..."""

from __future__ import annotations

import json
import subprocess
import sys
import time


def main(pause_s: float, job_ids: list[str]) -> None:
    """Leave a pause after each, so that one job's end does not slow the next one's."""
    began_ns = {}
    for job_id in job_ids:
        began_ns[job_id] = time.time_ns()
        subprocess.run(["scancel", job_id], check=True)
        time.sleep(pause_s)
    json.dump(began_ns, sys.stdout)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
