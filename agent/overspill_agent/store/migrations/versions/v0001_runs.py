"""Runs, their specs, attempts and signals.

A migration is never edited once it was released; it repeats the tables instead of importing them, which go on changing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables."""
    _create_runs()
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id", name="fk_attempts_runs"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("token_sha256", sa.LargeBinary, nullable=False),
        sa.Column("begun_at_ms", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "attempt", name="pk_attempts"),
    )
    op.create_table(
        "specs",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id", name="fk_specs_runs"), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_specs"),
    )
    op.create_table(
        "signals",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id", name="fk_signals_runs"), nullable=False),
        sa.Column("signal_seq", sa.Integer, nullable=False),
        sa.Column("signal", sa.Integer, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("is_delivered", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "signal_seq", name="pk_signals"),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("slurm_cluster", sa.String, nullable=False),
        sa.Column("slurm_job_id", sa.Integer, nullable=False),
        sa.Column("array_task_id", sa.Integer),
        sa.Column("submit_time_s", sa.Integer, nullable=False),
        sa.Column("restart_count", sa.Integer, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("cpus", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("has_stdin", sa.Boolean, nullable=False),
        sa.Column("is_stdin_complete", sa.Boolean, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("state_at_ms", sa.Integer, nullable=False),
        sa.Column("accepted_at_ms", sa.Integer, nullable=False),
        sa.Column("started_at_ms", sa.Integer),
        sa.Column("ended_at_ms", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("report_seq", sa.Integer, nullable=False),
        sa.Column("signal_seq", sa.Integer, nullable=False),
        sa.Column("stop_reason", sa.String),
        sa.Column("outcome", sa.String),
        sa.Column("exit_code", sa.Integer),
        sa.Column("signal", sa.Integer),
        sa.Column("reason", sa.String),
        sa.Column("user_cpu_ms", sa.Integer),
        sa.Column("system_cpu_ms", sa.Integer),
        sa.Column("max_rss_kib", sa.Integer),
        sa.Column("stdout_bytes", sa.Integer),
        sa.Column("stderr_bytes", sa.Integer),
        sa.Column("is_cleaned", sa.Boolean, nullable=False),
        sa.Column("is_released", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
        sa.CheckConstraint("(state = 'ENDED') = (outcome IS NOT NULL)", name="ended_with_outcome"),
        sa.CheckConstraint("NOT is_released OR state = 'ENDED'", name="released_after_end"),
    )
    op.create_index("uq_runs_request_id", "runs", ["request_id"], unique=True)
    op.create_index("ix_runs_open", "runs", ["is_released", "is_cleaned"])
