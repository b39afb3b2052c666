"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.agent_relay import Relay, relay_of
from tests.integration.agent_site import Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose agent runs for all tests of a module; none of them ends it."""
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A site for one test, which may do to it what it likes."""
    with running_site(tmp_path) as site:
        yield site


@pytest.fixture
async def relay(site: Site) -> AsyncIterator[Relay]:
    async with relay_of(site) as relay:
        yield relay


@pytest.fixture
async def own_relay(own_site: Site) -> AsyncIterator[Relay]:
    async with relay_of(own_site) as relay:
        yield relay
