"""The suite: every case of every back end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.backends.deaths import Deaths
from tests.conformance.backends.limits import Limits
from tests.conformance.backends.place import Place
from tests.conformance.backends.running import Running
from tests.conformance.backends.site import Site, site_of
from tests.conformance.backends.verbs import Verbs


class BackendSuite(Verbs, Running, Limits, Deaths):
    """To be subclassed, as `TestNAME`, by a class with a fixture `place`."""

    @pytest.fixture
    async def site(self, place: Place, tmp_path: Path) -> AsyncIterator[Site]:
        """An agent that brings runs on by itself."""
        async with site_of(place, _open_to_all(tmp_path), has_loop=True) as site:
            yield site

    @pytest.fixture
    async def hand(self, place: Place, tmp_path: Path) -> AsyncIterator[Site]:
        """An agent whose loop is the test's hand."""
        async with site_of(place, _open_to_all(tmp_path), has_loop=False) as site:
            yield site


def _open_to_all(directory: Path) -> Path:
    """Let other users through: pytest's directories are its own user's."""
    for parent in (directory, *directory.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    return directory
