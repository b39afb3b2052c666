"""What the sidecar counts. Labels are bounded: sites, verdicts and words of ours; never a job or a user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()

# The router

DECISIONS: Final = Counter(
    "overspill_decisions_total",
    "Submissions that were decided, by answer and by the word that says why.",
    ["verdict", "reason"],
    registry=REGISTRY,
)
DECISION_SECONDS: Final = Histogram(
    "overspill_decision_seconds",
    "Time from a request for a decision being there until its answer was sent.",
    buckets=(50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3),
    registry=REGISTRY,
)

LATE_CHANGES: Final = Counter(
    "overspill_late_changes_total",
    "Pending jobs that were let go to a site after all, or called back before they started there.",
    ["site", "change"],
    registry=REGISTRY,
)

# Slurm

SNAPSHOT_SECONDS: Final = Histogram(
    "overspill_snapshot_seconds",
    "Time that one picture of the whole queue took, questions and preparation together.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
    registry=REGISTRY,
)
SLURM_FAILURES: Final = Counter(
    "overspill_slurm_query_failures_total",
    "Questions to Slurm that were not answered, or not in time.",
    ["command"],
    registry=REGISTRY,
)
SLURM_RETRIES: Final = Counter(
    "overspill_slurm_change_retries_total",
    "Changes that slurmctld refused for a moment, without a reason of its own, and that were tried again.",
    registry=REGISTRY,
)

# The relay

SESSIONS: Final = Gauge("overspill_sessions", "Diverted jobs whose local process is connected.", registry=REGISTRY)
RELAYED_BYTES: Final = Counter(
    "overspill_relayed_bytes_total",
    "Bytes of jobs' standard streams that went through the relay.",
    ["site", "stream"],
    registry=REGISTRY,
)
SIGNALS: Final = Counter(
    "overspill_signals_total", "Signals of jobs that a site has stored.", ["site"], registry=REGISTRY
)
SUBMIT_SECONDS: Final = Histogram(
    "overspill_submit_seconds",
    "Time from a job's start on its virtual node until its site had stored the run.",
    ["site"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
    registry=REGISTRY,
)
SUBMITS_REFUSED: Final = Counter(
    "overspill_submits_refused_total",
    "Runs that a site does not take, by the kind of refusal.",
    ["site", "reason"],
    registry=REGISTRY,
)
RUNS_ENDED: Final = Counter(
    "overspill_site_runs_ended_total", "Runs whose end the relay has seen.", ["site", "outcome"], registry=REGISTRY
)
JOBS_RETURNED: Final = Counter(
    "overspill_jobs_returned_total",
    "Jobs that left a site before their end: sent home, requeued as after a node failure, or stranded before it began.",
    ["site", "how"],
    registry=REGISTRY,
)
ATTACH_RESUMES: Final = Counter(
    "overspill_attach_resumes_total",
    "Times that the relay had to follow a run anew after a break.",
    ["site"],
    registry=REGISTRY,
)
CONNECTIONS_REFUSED: Final = Counter(
    "overspill_connections_refused_total",
    "Connections to the relay's socket that were no job's, or not as they must be.",
    ["reason"],
    registry=REGISTRY,
)
ORPHANS: Final = Counter(
    "overspill_orphans_total",
    "Runs that no job of Slurm's belongs to any more, found by comparing both.",
    ["site", "what"],
    registry=REGISTRY,
)


def begin_at_zero(sites: Iterable[str]) -> None:
    """Have what alerts look for be there from the start: the first of a series that appears is no increase to them."""
    DECISIONS.labels("LOCAL", "router_error")
    for site in sites:
        for kind in ("invalid_request", "not_permitted", "not_found", "unrunnable"):
            SUBMITS_REFUSED.labels(site, kind)
        for how in ("requeued", "sent_home", "stranded"):
            JOBS_RETURNED.labels(site, how)
