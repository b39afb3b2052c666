"""All sessions, played both ways on Slurm 24.11."""

from tests.e2e.comparison import comparison, test_a_diverted_session_cannot_be_told_from_a_local_one

__all__ = ["comparison", "test_a_diverted_session_cannot_be_told_from_a_local_one"]

SLURM = "24.11"
BACKEND: str | None = None
