"""All sessions, played both ways on this machine's Slurm, or RIG_SLURM's, and a local back end, or RIG_BACKEND's."""

from tests.e2e.comparison import comparison, test_a_diverted_session_cannot_be_told_from_a_local_one

__all__ = ["comparison", "test_a_diverted_session_cannot_be_told_from_a_local_one"]

SLURM: str | None = None
BACKEND: str | None = None
