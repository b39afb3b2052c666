"""The tables as they are now. `migrations/` is how they came to be; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    # Canonical text form of the request id; its parts follow, for people and for reading back.
    Column("request_id", String, nullable=False),
    Column("slurm_cluster", String, nullable=False),
    Column("slurm_job_id", Integer, nullable=False),
    Column("array_task_id", Integer),
    Column("submit_time_s", Integer, nullable=False),
    Column("restart_count", Integer, nullable=False),
    Column("account", String, nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("has_stdin", Boolean, nullable=False),
    Column("is_stdin_complete", Boolean, nullable=False),
    Column("state", String, nullable=False),
    Column("state_at_ms", Integer, nullable=False),
    Column("accepted_at_ms", Integer, nullable=False),
    Column("started_at_ms", Integer),
    Column("ended_at_ms", Integer),
    Column("attempt", Integer, nullable=False),
    Column("report_seq", Integer, nullable=False),
    Column("signal_seq", Integer, nullable=False),
    # A name in the site's catalogue, and a type of GPU; empty for none.
    Column("image", String, nullable=False, server_default=""),
    Column("gpu_type", String, nullable=False, server_default=""),
    Column("stop_reason", String),
    Column("stop_outcome", String, nullable=False, server_default="CANCELLED"),
    # What the backend's own tools know it by, and where it is; empty while that is not known.
    Column("remote_id", String, nullable=False, server_default=""),
    Column("machine", String, nullable=False, server_default=""),
    # All of the ending, or nothing of it.
    Column("outcome", String),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("reason", String),
    Column("user_cpu_ms", Integer),
    Column("system_cpu_ms", Integer),
    Column("max_rss_kib", Integer),
    Column("stdout_bytes", Integer),
    Column("stderr_bytes", Integer),
    Column("is_cleaned", Boolean, nullable=False),
    Column("is_released", Boolean, nullable=False),
    CheckConstraint("(state = 'ENDED') = (outcome IS NOT NULL)", name="ended_with_outcome"),
    CheckConstraint("NOT is_released OR state = 'ENDED'", name="released_after_end"),
)
#: A request id names one run, forever: that is what makes Submit idempotent.
Index("uq_runs_request_id", runs.c.request_id, unique=True)
#: What the agent must still look after; small however many runs there have been.
Index("ix_runs_open", runs.c.is_released, runs.c.is_cleaned)

attempts = Table(
    "attempts",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    # SHA-256 of the runner's token; the token itself is in the runner's directory only.
    Column("token_sha256", LargeBinary, nullable=False),
    Column("begun_at_ms", Integer, nullable=False),
    # The first runner that asked for the spec; another one with the same token is a double start.
    Column("runner_instance", String),
)

#: overspill.v1.RunSpec as it came, serialised. Removed at release.
specs = Table(
    "specs",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("spec", LargeBinary, nullable=False),
)

#: Signals that wait for the runner's word. Removed when it says `signalled`, or at release.
signals = Table(
    "signals",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("signal_seq", Integer, primary_key=True),
    Column("signal", Integer, nullable=False),
    # "shell" or "tree", as in the runner's protocol.
    Column("scope", String, nullable=False),
    Column("is_delivered", Boolean, nullable=False),
)

#: What the cluster signed for a run (overspill/claims.py), with its certificate. Stays as long as the run's row.
claims = Table(
    "claims",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("claim", String, nullable=False),
)
