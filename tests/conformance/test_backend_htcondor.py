"""The HTCondor back end passes the suite, in the vanilla universe of a pool of containers; needs root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.backends.condor_place import CondorPlace
from tests.conformance.backends.suite import BackendSuite
from tests.rig.condor_host import CondorHost


@pytest.mark.timeout(300)
class TestHtcondor(BackendSuite):
    """Every case, of the vanilla universe."""

    @pytest.fixture
    def place(self, condor_host: CondorHost, tmp_path: Path) -> CondorPlace:
        return CondorPlace(condor_host, tmp_path)
