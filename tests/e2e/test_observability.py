"""What an admin and a site operator see of one job: metrics that move, and one event per change of state."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.e2e.diversion import (
    job_at_a_dead_site,
    submit_diverted,
    wait_for_line,
    wait_until,
    wait_until_diverting,
)
from tests.rig import Rig
from tests.rig.observing import events_of, log_lines, scrape
from tests.rig.parts import CHECKOUT

_SECRET = "swordfish-7f3a"


def _story(events: list[dict[str, Any]]) -> list[str]:
    """Return the events in short: "run_state QUEUED>RUNNING"."""
    return [
        f"{event['action']} {event['from_state']}>{event['state']}"
        if event["action"] == "run_state"
        else str(event["action"])
        for event in events
        if event["level"] == "info"
    ]


def _is_settled(rig: Rig, job_id: int) -> bool:
    return all("run_settled" in _story(events_of(host, job_id)) for host in (rig.cluster, rig.site))


def _is_at_rest(rig: Rig) -> bool:
    metrics = scrape(rig)
    return (
        metrics.sum("overspill_sessions") + metrics.sum("overspill_runs") == 0
        and not rig.cluster.run(["squeue", "--noheader"], check=True).stdout.strip()
    )


def test_the_metrics_of_both_sides_move_with_a_diverted_job(rig: Rig) -> None:
    wait_until(lambda: _is_at_rest(rig), timeout_s=60, what="earlier jobs to be over")
    before = scrape(rig)
    job_id = submit_diverted(rig, "#!/bin/bash\necho 0123456789\nsleep 2\n")
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    wait_until(lambda: _is_settled(rig, job_id), timeout_s=60, what="the run to be settled")
    after = scrape(rig)

    def moved(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert moved("overspill_decisions_total", verdict="DIVERT", reason="mode_always") == 1
    assert moved("overspill_decision_seconds_count") == 1
    assert moved("overspill_submit_seconds_count", site="site-a") == 1
    assert moved("overspill_relayed_bytes_total", stream="stdout") == 11
    assert moved("overspill_site_runs_ended_total", outcome="COMPLETED") == 1
    assert moved("overspill_submits_total", cluster="rig", result="accepted") == 1
    assert moved("overspill_output_bytes_total", stream="stdout") == 11
    assert moved("overspill_runs_ended_total", outcome="COMPLETED") == 1
    assert moved("overspill_launch_seconds_count") == 1
    assert moved("overspill_run_start_seconds_count") == 1
    assert moved("overspill_snapshot_seconds_count") > 0
    assert moved("overspill_store_seconds_count") > 0
    assert after.sum("overspill_site_reachable", site="site-a") >= 1
    assert after.sum("overspill_capacity_cpus", amount="total") == 8
    assert after.sum("overspill_queue_age_seconds") < 30
    assert after.sum("overspill_disk_free_bytes") > after.sum("overspill_disk_reserve_bytes") > 0
    assert min(value for name, _, value in after.samples if name.endswith("expiry_timestamp_seconds")) > 1_700_000_000


def test_a_running_job_is_among_the_gauges(rig: Rig) -> None:
    job_id = submit_diverted(rig, "#!/bin/bash\necho on\nsleep 60\n")
    wait_until(lambda: b"on" in rig.output(job_id), timeout_s=30, what="the job to run")
    metrics = scrape(rig)
    rig.cluster.run(["scancel", str(job_id)], check=True)
    assert metrics.sum("overspill_sessions") >= 1
    assert metrics.sum("overspill_runs", state="RUNNING") >= 1
    assert metrics.sum("overspill_runner_uploads") >= 1
    assert metrics.sum("overspill_capacity_cpus", amount="promised") >= 1
    assert metrics.sum("overspill_spool_bytes") >= 3


def test_the_documentation_names_every_label(rig: Rig) -> None:
    page = (CHECKOUT / "docs/observability.md").read_text()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:5]] for line in page.splitlines() if line.startswith("| `")]
    documented = {row[0]: {label for label in row[2].split(", ") if label} for row in rows if len(row) == 4}
    for name, has, _ in scrape(rig).samples:
        family = name if name in documented else name.rpartition("_")[0]
        if name.startswith("overspill"):
            assert set(has) - {"le"} == documented[family], name


def test_no_label_names_a_job_a_run_or_a_user(rig: Rig) -> None:
    labels = {label for _, has, _ in scrape(rig).samples for label in has}
    assert labels <= {
        *("site", "verdict", "reason", "command", "stream", "outcome", "how", "what", "amount", "state", "le"),
        *("backend", "cluster", "result", "version", "path"),
    }


def test_one_job_can_be_followed_through_both_logs(rig: Rig) -> None:
    job_id = submit_diverted(rig, "#!/bin/bash\nexit 3\n")
    rig.wait_for_state(job_id, ["FAILED"], timeout_s=60)
    wait_until(lambda: _is_settled(rig, job_id), timeout_s=60, what="the run to be settled")
    at_site = events_of(rig.site, job_id)
    # The audit's line may come before or after a change of state.
    assert [event for event in _story(at_site) if event != "submit_accepted"] == [
        "run_accepted",
        "run_state ACCEPTED>QUEUED",
        "run_state QUEUED>RUNNING",
        "run_state RUNNING>ENDED",
        "run_settled",
    ]
    at_cluster = events_of(rig.cluster, job_id)
    story = _story(at_cluster)
    assert (story[:2], story[-1]) == (["proxy_admitted", "run_accepted"], "run_settled")
    assert len(story) == len(set(story)), "an event came twice"
    (run_id,) = {event["run_id"] for event in (*at_site, *at_cluster[1:])}
    assert run_id
    for events in (at_site, at_cluster):
        (end,) = (event for event in events if event.get("state") == "ENDED")
        assert (end["outcome"], end["exit_code"], end["slurm_cluster"]) == ("COMPLETED", 3, "rig")
    assert at_cluster[1]["decision_id"]


@pytest.mark.timeout(300)
def test_an_event_comes_once_although_both_daemons_are_killed(rig: Rig) -> None:
    job_id = submit_diverted(rig, "#!/bin/bash\ntrap 'echo off; exit' USR1\necho on\nwhile :; do sleep 0.2; done\n")
    wait_for_line(rig, job_id, b"on")
    for host, daemons in ((rig.site, ("agent",)), (rig.cluster, _sidecars(rig))):
        for name in daemons:
            host.daemon(name).signal(signal.SIGKILL)
            host.daemon(name).start()
    wait_until(
        lambda: "run_resumed" in _story(events_of(rig.cluster, job_id)),
        timeout_s=60,
        what="the run to be taken up again",
    )
    rig.cluster.run(["scancel", "--batch", "--signal=USR1", str(job_id)], user="alice", check=True)
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=90)
    wait_until(lambda: _is_settled(rig, job_id), timeout_s=60, what="the run to be settled")
    for host in (rig.site, rig.cluster):
        # A proxy that has come back is admitted again.
        story = [event for event in _story(events_of(host, job_id)) if event != "proxy_admitted"]
        assert len(story) == len(set(story)), story
        assert sum("ENDED" in event for event in story) == 1


def _sidecars(rig: Rig) -> list[str]:
    ours = ("sidecar", "router", "relay")
    return [name for name in rig.cluster.daemons if name.startswith(ours)]


def test_no_log_holds_what_a_user_would_keep_secret(rig: Rig) -> None:
    job_id = submit_diverted(
        rig,
        f"#!/bin/bash\nPASSWORD={_SECRET}-in-script\necho {_SECRET}-in-output >&2\nexit 1\n",
        arguments=[f"--token={_SECRET}-in-argument"],
        env={"API_TOKEN": f"{_SECRET}-in-environment"},
    )
    rig.wait_for_state(job_id, ["FAILED"], timeout_s=60)
    wait_until(lambda: _is_settled(rig, job_id), timeout_s=60, what="the run to be settled")
    for host in (rig.cluster, rig.site):
        assert _SECRET not in "\n".join(str(line) for line in log_lines(host))


@pytest.mark.timeout(300)
def test_a_job_that_is_sent_home_is_counted_and_told_of(rig: Rig) -> None:
    wait_until_diverting(rig)
    wait_until(lambda: _is_at_rest(rig), timeout_s=60, what="earlier jobs to be over")
    before = scrape(rig).sum("overspill_jobs_returned_total", site="site-a", how="sent_home")
    with job_at_a_dead_site(rig, "#!/bin/bash\necho here\n") as job_id:
        rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=90)
    assert rig.job(job_id)["Partition"] == "batch"
    assert scrape(rig).sum("overspill_jobs_returned_total", site="site-a", how="sent_home") == before + 1
    (event,) = (event for event in events_of(rig.cluster, job_id) if event["action"] == "job_sent_home")
    assert event["reason"]
    wait_until_diverting(rig)


def test_a_router_that_loses_slurmctld_says_so_to_a_probe_and_recovers(rig: Rig) -> None:
    assert _router_health(rig) == "SERVING"
    rig.cluster.daemon("slurmctld").signal(signal.SIGSTOP)
    try:
        wait_until(lambda: _router_health(rig) == "NOT_SERVING", timeout_s=60, what="the probe to be told")
        assert _router_health(rig, service="") == "SERVING"
    finally:
        rig.cluster.daemon("slurmctld").signal(signal.SIGCONT)
    wait_until(lambda: _router_health(rig) == "SERVING", timeout_s=60, what="the router to recover")
    wait_until_diverting(rig)


_PROBE = """
import sys, grpc
from grpc_health.v1 import health_pb2 as pb, health_pb2_grpc
with grpc.insecure_channel("unix:/run/overspill/router.sock") as channel:
    answer = health_pb2_grpc.HealthStub(channel).Check(pb.HealthCheckRequest(service=sys.argv[1]), timeout=10)
print(pb.HealthCheckResponse.ServingStatus.Name(answer.status))
"""


def _router_health(rig: Rig, service: str = "overspill.v1.Router") -> str:
    """Ask through grpcio's own health client."""
    argv = ["/opt/overspill/venv/bin/python", "-c", _PROBE, service]
    return rig.cluster.run(argv, check=True, timeout=60).stdout.strip()
