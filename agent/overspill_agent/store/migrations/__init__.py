"""Alembic migrations, numbered; each is applied once, in order, at the agent's start."""
