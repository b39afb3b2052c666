"""Waiting for the router to come to an answer."""

from __future__ import annotations

from collections.abc import Callable

from tests.rig import Rig
from tests.rig.routing import would_divert
from tests.rig.waiting import poll


def wait_until(is_done: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Poll until done.

    Raises:
        AssertionError: that names `what` was waited for.
    """
    assert poll(is_done, timeout_s=timeout_s, interval_s=0.05), f"waited {timeout_s} s in vain for {what}"


def wait_until_diverting(rig: Rig) -> None:
    """Wait until the router would divert a job: it has a snapshot, and the site answers."""
    wait_until(lambda: would_divert(rig), timeout_s=30, what="the router to divert")


def wait_until_not_diverting(rig: Rig) -> None:
    """Wait until the router has noticed that the site does not answer."""
    wait_until(lambda: not would_divert(rig), timeout_s=30, what="the router to keep jobs at home")
