"""Rigs for end-to-end tests: one that the whole session shares, and fresh ones for tests that break theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import ParamSpec

import pytest

from tests.e2e.diversion import wait_until_diverting
from tests.rig import Rig

P = ParamSpec("P")


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """Every eligible job is diverted. A test that disturbs something of it heals it again."""
    with Rig.up(policy="overspill_mode=always") as running:
        wait_until_diverting(running)
        yield running


@pytest.fixture
def new_rig() -> Iterator[Callable[..., Rig]]:
    """`Rig.up`; what it brings up is brought down at the end of the test."""
    with ExitStack() as rigs:
        yield _entered(rigs, Rig.up)


def _entered(rigs: ExitStack, up: Callable[P, Rig]) -> Callable[P, Rig]:
    def enter(*args: P.args, **kwargs: P.kwargs) -> Rig:
        return rigs.enter_context(up(*args, **kwargs))

    return enter
