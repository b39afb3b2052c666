"""The telling sessions, played at home and in a pool; `make compare BACKEND=htcondor` plays all."""

from __future__ import annotations

import pytest

from tests.e2e.cases import Case, telling_cases_for
from tests.e2e.comparison import Comparison, assert_alike, comparison
from tests.rig import SiteBackend

__all__ = ["comparison"]

SLURM: str | None = None
BACKEND: str | None = SiteBackend.HTCONDOR


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", telling_cases_for(SiteBackend.HTCONDOR), ids=lambda case: case.name)
def test_a_session_in_a_pool_cannot_be_told_from_a_local_one(comparison: Comparison, case: Case) -> None:
    assert_alike(comparison, case)
