"""What the local backend leaves on disk, removes and survives; with real processes, bubblewrap and users."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from overspill.errors import UnavailableError
from overspill_agent.backends.attempt import claimed, kill, lock_path, seen
from overspill_agent.backends.base import Backend
from overspill_agent.runs import Seen
from tests.integration.agent_site import wait_until
from tests.integration.local_place import RUN, LocalPlace, launch_of, until_seen, until_started

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


async def execute(*argv: str) -> None:
    """Run a program that must succeed."""
    await asyncio.to_thread(subprocess.run, argv, check=True)


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
    assert (await backend.observe(RUN, 1)).seen is Seen.GONE
    await backend.start(launch_of(1))
    assert (await backend.observe(RUN, 1)).seen is Seen.GONE
    assert place.starts() == [1]


async def test_each_attempt_has_its_own_directories(root: Path, place: LocalPlace, backend: Backend) -> None:
    for attempt in (1, 2):
        await backend.start(launch_of(attempt))
        await until_started(place, list(range(1, attempt + 1)))
        project = root / "runs" / RUN / f"attempt-{attempt}" / "files" / "home" / "alice" / "project"
        assert not list(project.iterdir())
        assert owner(project) == ALICE
        (project / "mine").touch()


async def test_a_tree_that_a_job_has_made_very_deep_is_removed_whole(
    root: Path, place: LocalPlace, backend: Backend
) -> None:
    await backend.start(launch_of(1))
    await until_started(place, [1])
    await backend.stop(RUN, 1)
    await until_seen(backend, 1, Seen.GONE)
    project = root / "runs" / RUN / "attempt-1" / "files" / "home" / "alice" / "project"
    dig = "import os\nfor _ in range(3000):\n    os.mkdir('deep'); os.chdir('deep')\n"
    dig += "open('file', 'w').write('x')\n"
    as_alice = ["env", "-C", str(project), "setpriv", "--reuid", str(ALICE), "--regid", str(ALICE), "--clear-groups"]
    await execute(*as_alice, "/usr/bin/python3", "-c", dig)
    await backend.forget(RUN)
    assert not list((root / "runs").iterdir())


async def test_what_cannot_be_removed_is_told_and_removed_the_next_time(
    root: Path, place: LocalPlace, backend: Backend
) -> None:
    await backend.start(launch_of(1))
    await until_started(place, [1])
    await backend.stop(RUN, 1)
    await until_seen(backend, 1, Seen.GONE)
    busy = root / "runs" / RUN / "attempt-1" / "files" / "busy"
    busy.mkdir()
    await execute("mount", "-t", "tmpfs", "tmpfs", str(busy))
    try:
        with pytest.raises(UnavailableError, match="cannot remove"):
            await backend.forget(RUN)
    finally:
        await execute("umount", str(busy))
    await backend.forget(RUN)
    assert not list((root / "runs").iterdir())


def test_a_child_whose_monitor_died_before_it_told_of_it_is_killed(tmp_path: Path) -> None:
    lock = lock_path(tmp_path, 1)
    bystander = subprocess.Popen(["sleep", "600"])
    full = os.open("/dev/full", os.O_WRONLY)
    with claimed(lock) as claim:
        assert claim is not None
        isolation = ["--unshare-pid", "--as-pid-1", "--ro-bind", "/", "/"]
        life = ["--json-status-fd", str(full), "--sync-fd", str(claim.init)]
        monitor = subprocess.Popen(
            ["bwrap", *isolation, *life, "--", "sleep", "600"],
            pass_fds=(full, claim.init),
            stderr=subprocess.DEVNULL,
        )
    os.close(full)
    try:
        assert monitor.wait(10) == 1
        assert seen(lock) is Seen.ALIVE
        assert kill(lock)
        wait_until(lambda: seen(lock) is Seen.NOTHING, "the child is gone")
        assert not kill(lock)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_the_runner_is_compiled_once_and_not_by_each_run(root: Path, place: LocalPlace, backend: Backend) -> None:
    await backend.start(launch_of(1))
    await until_started(place, [1])
    control = root / "runs" / RUN / "attempt-1" / "control"
    (compiled,) = (control / "__pycache__").iterdir()
    assert compiled.name.startswith("runner.")
    assert owner(compiled) == ALICE
