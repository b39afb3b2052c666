"""The store read by somebody else than the agent: nothing is written, and above all nothing migrated."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from overspill.errors import AdminError
from overspill_agent.runs import Run
from overspill_agent.store.database import MIGRATIONS
from overspill_agent.store.rows import run_of
from overspill_agent.store.tables import runs


def read_runs(path: Path) -> list[Run]:
    """Return every run in the store at `path`, oldest first. An agent may have it open.

    Raises:
        AdminError: it cannot be read, or is another version's.
    """
    engine = sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True),
        poolclass=sqlalchemy.NullPool,
    )
    try:
        with engine.connect() as connection:
            _check_revision(path, MigrationContext.configure(connection).get_current_revision())
            rows = connection.execute(select(runs).order_by(runs.c.accepted_at_ms)).mappings()
            return [run_of(row) for row in rows]
    except SQLAlchemyError as error:
        raise AdminError(f"cannot read the store {path}: {getattr(error, 'orig', None) or error}") from error


def _check_revision(path: Path, found: str | None) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = ScriptDirectory.from_config(config).get_current_head()
    if found != known:
        raise AdminError(
            f"the store {path} has schema revision {found or 'none'}, this version of overspill-agent reads {known}:"
            " use the version that the agent runs, or start this one, which migrates the store"
        )
