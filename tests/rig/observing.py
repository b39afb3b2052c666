"""What the daemons of a rig tell of themselves: their metrics, as Prometheus would read them, and their logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.rig.host import Host
from tests.rig.overspill_conf import AGENT_METRICS_PORT, RELAY_METRICS_PORT, SIDECAR_METRICS_PORT
from tests.rig.rig import Rig
from tests.scraped import Metrics

_FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode(), end='')"


def scrape(rig: Rig) -> Metrics:
    """Read the metrics of the sidecar's process or processes and of the agent."""
    ports = [port for port in (SIDECAR_METRICS_PORT, RELAY_METRICS_PORT) if rig.cluster.is_listening(port)]
    texts = [scrape_text(rig.cluster, port) for port in ports] + [scrape_text(rig.site, AGENT_METRICS_PORT)]
    return Metrics(*texts)


def scrape_text(host: Host, port: int) -> str:
    return host.run(["/usr/bin/python3", "-c", _FETCH, f"http://127.0.0.1:{port}/metrics"], check=True).stdout


def log_lines(host: Host) -> Iterator[dict[str, Any]]:
    """Yield the lines of our daemons' logs on this host."""
    for path in sorted(host.path("/var/log/overspill").glob("*.log")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def events_of(host: Host, slurm_job_id: int) -> list[dict[str, Any]]:
    """Return what the logs on this host say of one job, in order."""
    return sorted(
        (line for line in log_lines(host) if line.get("slurm_job_id") == slurm_job_id),
        key=lambda line: str(line["timestamp"]),
    )
