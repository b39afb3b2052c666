"""What the local backend leaves on disk, removes and survives; with real processes, bubblewrap and users."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from overspill_agent.backends.attempt import lock_path
from overspill_agent.backends.base import Backend
from overspill_agent.runs import Seen
from tests.conformance.test_backends import RUN, LocalPlace, launch_of, until_seen, until_started

ALICE = 2001


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that every user may pass through."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    return tmp_path


@pytest.fixture
def place(root: Path) -> LocalPlace:
    return LocalPlace(root)


@pytest.fixture
async def backend(place: LocalPlace) -> AsyncIterator[Backend]:
    backend = place.open()
    yield backend
    for attempt in (1, 2):
        await backend.stop(RUN, attempt)
    await backend.close()


def owner(path: Path) -> int:
    """Return the uid of the path itself."""
    return path.lstat().st_uid


async def test_a_start_after_a_crash_follows_no_symlink_that_a_job_has_left(
    root: Path, place: LocalPlace, backend: Backend
) -> None:
    precious = root / "precious"
    precious.write_text("root's\n")
    place.crash_before_launch(1)
    own = root / "runs" / RUN / "attempt-1"
    for directory in (own, own / "control", own / "files", own / "files" / "home"):
        directory.mkdir()
        os.chown(directory, ALICE, ALICE)
    for name in ("ca.pem", "token", "runner.py"):
        (own / "control" / name).symlink_to(precious)
    (own / "files" / "home" / "alice").symlink_to(root)
    await backend.start(launch_of(1))
    await until_started(place, [1])
    assert precious.read_text() == "root's\n"
    assert (owner(precious), owner(root)) == (0, 0)
    assert owner(own / "control" / "ca.pem") == ALICE


async def test_a_run_whose_lock_lost_its_status_with_the_power_is_gone_and_not_new(
    root: Path, place: LocalPlace, backend: Backend
) -> None:
    await backend.start(launch_of(1))
    await until_started(place, [1])
    await backend.stop(RUN, 1)
    await until_seen(backend, 1, Seen.GONE)
    lock = lock_path(root / "runs" / RUN, 1)
    claim = lock.read_bytes().splitlines(keepends=True)[0]
    lock.write_bytes(claim.replace(claim[20:24], b"0000"))
    assert await backend.observe(RUN, 1) is Seen.GONE
    await backend.start(launch_of(1))
    assert await backend.observe(RUN, 1) is Seen.GONE
    assert place.starts() == [1]


async def test_each_attempt_has_its_own_directories(root: Path, place: LocalPlace, backend: Backend) -> None:
    for attempt in (1, 2):
        await backend.start(launch_of(attempt))
        await until_started(place, list(range(1, attempt + 1)))
        project = root / "runs" / RUN / f"attempt-{attempt}" / "files" / "home" / "alice" / "project"
        assert not list(project.iterdir())
        assert owner(project) == ALICE
        (project / "mine").touch()
