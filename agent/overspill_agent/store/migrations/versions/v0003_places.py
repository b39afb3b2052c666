"""Where runs are, what they run in, what a stop makes of them, and which runner an attempt belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from overspill.states import HOME_LEASE_OVER

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; of a run from before only the lease's end made a stop anything but a cancellation."""
    for name in ("image", "gpu_type", "remote_id", "machine"):
        op.add_column("runs", sa.Column(name, sa.String, nullable=False, server_default=""))
    op.add_column("runs", sa.Column("stop_outcome", sa.String, nullable=False, server_default="CANCELLED"))
    runs = sa.table("runs", sa.column("stop_reason", sa.String), sa.column("stop_outcome", sa.String))
    op.execute(runs.update().where(runs.c.stop_reason == HOME_LEASE_OVER).values(stop_outcome="NODE_FAIL"))
    op.add_column("attempts", sa.Column("runner_instance", sa.String))
