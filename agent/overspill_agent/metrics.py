"""What the agent counts. Labels are bounded: states, outcomes, configured clusters; never a job, a run or a user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from overspill.states import Outcome

REGISTRY: Final = CollectorRegistry()

SUBMITS: Final = Counter(
    "overspill_submits_total",
    "Submissions by clusters, by result: accepted, repeated, or the kind of refusal.",
    ["cluster", "result"],
    registry=REGISTRY,
)
RUNS_ENDED: Final = Counter("overspill_runs_ended_total", "Runs that have ended.", ["outcome"], registry=REGISTRY)
LAUNCH_SECONDS: Final = Histogram(
    "overspill_launch_seconds",
    "Time that the back end took to start a run's runner.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
    registry=REGISTRY,
)
START_SECONDS: Final = Histogram(
    "overspill_run_start_seconds",
    "Time from a run's acceptance until its script ran.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200),
    registry=REGISTRY,
)
START_SHORTAGES: Final = Counter(
    "overspill_start_shortages_total",
    "Starts that were put off because the site was short of something.",
    registry=REGISTRY,
)
GIVEN_UP: Final = Counter(
    "overspill_runs_given_up_total",
    "Runs that the back end has given up: what ends them is known before any runner says so.",
    ["outcome"],
    registry=REGISTRY,
)
LEFTOVERS: Final = Counter(
    "overspill_leftovers_removed_total",
    "Runs that the back end kept and the store did not know, forgotten after their runners' lease.",
    registry=REGISTRY,
)
OUTPUT_BYTES: Final = Counter(
    "overspill_output_bytes_total", "Bytes of output that runners have delivered.", ["stream"], registry=REGISTRY
)
LEASE_EXPIRIES: Final = Counter(
    "overspill_lease_expiries_total",
    "Runs that their runner stopped because it had heard nothing of the agent for a lease.",
    registry=REGISTRY,
)
STORE_SECONDS: Final = Histogram(
    "overspill_store_seconds",
    "Time that a read or a durable write of the store took, with the wait for its turn.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
    registry=REGISTRY,
)
STORE_FAILURES: Final = Counter(
    "overspill_store_failures_total", "Reads and writes that the store did not take.", registry=REGISTRY
)


def begin_at_zero(clusters: Iterable[str]) -> None:
    """Have what alerts look for be there from the start: the first of a series that appears is no increase to them."""
    for outcome in Outcome:
        RUNS_ENDED.labels(outcome.value)
        GIVEN_UP.labels(outcome.value)
    for cluster in clusters:
        SUBMITS.labels(cluster, "accepted")
