"""What the back ends' suites share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

#: The assertions of the suites tell what they compared, wherever they are written.
pytest.register_assert_rewrite("tests.conformance.backends")

from tests.rig.condor_host import CondorHost  # noqa: E402 - after the registration


@pytest.fixture(scope="session")
def condor_pool() -> Iterator[CondorHost]:
    """One pool for all tests of a worker."""
    up = CondorHost.up()
    try:
        yield up
    finally:
        up.down()


@pytest.fixture(scope="module")
def condor_host(condor_pool: CondorHost) -> Iterator[CondorHost]:
    """The pool, with this process in its network, as an agent at the site would be."""
    with condor_pool.entered():
        yield condor_pool
