"""Who signed for a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table; runs from before have no claim."""
    op.create_table(
        "claims",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id", name="fk_claims_runs"), nullable=False),
        sa.Column("claim", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_claims"),
    )
