"""All sessions, played both ways on Slurm 26.05."""

from tests.e2e.comparison import comparison, test_a_diverted_session_cannot_be_told_from_a_local_one

__all__ = ["comparison", "test_a_diverted_session_cannot_be_told_from_a_local_one"]

SLURM = "26.05"
BACKEND: str | None = None
