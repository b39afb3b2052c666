"""The events: what our daemons log at level info, one line for each change of state, by the key `action`.

What has to do with one job carries `slurm_cluster`, `slurm_job_id`, `restart_count` and `run_id` on both sides, and at
the cluster `site`.
"""

from __future__ import annotations

from typing import Final

#: What the cluster's sidecar tells.
SIDECAR_EVENTS: Final[dict[str, str]] = {
    "started": "the sidecar serves",
    "stopping": "the sidecar was told to stop",
    "stopped": "the sidecar has stopped",
    "hangup": "SIGHUP came; there is nothing to reload",
    "metrics_served": "Prometheus may ask",
    "slurm_reachable": "slurmctld answers again",
    "queue_reader": "queue is read",
    "certificate_renewed": "a site has issued our next certificate",
    "certificate_replaced": "certificate files have changed; new connections use them",
    "policy_changed": "the policy words in slurm.conf have changed",
    "site_reachable": "a site's agent answers",
    "site_drain_changed": "a site's operator has drained it, or has ended that",
    "proxy_admitted": "a job's local process has connected",
    "run_accepted": "a site has stored the run of a job",
    "run_resumed": "a job's proxy has come back, after a restart of the relay say",
    "run_state": "a run has changed its state",
    "first_output": "the first byte of a stream went to the user's file",
    "time_limit_changed": "Slurm shows another time limit for the job; the site is told",
    "signal_stored": "the site has stored a signal for the run",
    "attach_broke": "a run's stream broke; told once for each outage",
    "attach_resumed": "the stream goes on where it broke",
    "proxy_died": "a job's local process is gone; its run is being stopped",
    "job_sent_home": "a job that its site did not take goes back to its own partition",
    "job_requeued": "Slurm starts a job again whose run was lost",
    "stranded_home": "a job that waited in vain for its closed site goes back to its own partition",
    "late_added": "a pending job may start at a site as well: waiting at home has become too long",
    "late_recalled": "a pending job stays at home after all",
    "wait_model_loaded": "the router goes on with what the wait model has learned, or begins with nothing",
    "wait_model_fitted": "boosted trees were fitted to what the wait model has seen, and are asked from now on",
    "wait_model_past": "the wait model has lived through the past that sacct remembers, or could not",
    "nodes_undrained": "a site's virtual nodes may be used again",
    "leave_cancelled": "a job was cancelled on its way home",
    "run_settled": "the site may forget the run: its end is the job's",
    "orphan_released": "an ended run was found that belongs to no job any more",
}

#: What the site's agent tells.
AGENT_EVENTS: Final[dict[str, str]] = {
    "agent_started": "the agent serves",
    "agent_stopping": "the agent was told to stop; its runs go on",
    "agent_stopped": "the agent has stopped",
    "agent_serving": "new runs are taken again",
    "metrics_served": "Prometheus may ask",
    "certificate_renewed": "a certificate was issued in place of one that ends soon: a cluster's, or the agent's own",
    "certificate_replaced": "certificate files have changed; new connections use them",
    "cluster_enrolled": "a cluster has redeemed its code",
    "engine_connected": "the container engine answers, for the first time or again",
    "image_pull": "a missing image is being fetched, as the catalogue allows; told again every 10 s",
    "image_pulled": "it is there",
    "job_submitted": "a run's job is in the access point's queue; its HTCondor id",
    "pool_up": "the HTCondor pool answers again",
    "schedd_introduction": "the access point does not let the agent name owners yet: it is sent a job that cannot run",
    "submit_accepted": "a request for a run was verified, and whom it became (the audit line)",
    "run_accepted": "a run is stored",
    "runner_started": "a runner was started for the run",
    "run_state": "a run has changed its state",
    "run_settled": "the cluster has taken note of the run's end",
}
