"""The agent's memory: one SQLite database behind one thread and one typed class."""

from overspill_agent.store.store import Store

__all__ = ["Store"]
