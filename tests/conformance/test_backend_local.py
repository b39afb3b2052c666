"""The local back end passes the suite, with real processes; needs root."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest

from overspill_agent.backends.base import Account, Backend, Image
from overspill_agent.backends.cgroups import Cgroups, Limits
from overspill_agent.backends.devices import Gpus
from overspill_agent.backends.local import LocalBackend, LocalSite
from overspill_agent.backends.sandbox import Roots
from overspill_agent.config import DEFAULT_RUNNER
from overspill_agent.runs import Resources
from tests.conformance.backends.dying import Countdown, dying_at_system_call
from tests.conformance.backends.place import Expectations, marked_processes
from tests.conformance.backends.site import Site
from tests.conformance.backends.suite import BackendSuite


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _open_files(pid: int) -> list[Path]:
    """Return what a process has open; nothing if it is gone, or beyond root's reach."""
    try:
        return [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


class LocalPlace:
    """`Place` of this host."""

    account = Account(name="alice", uid=2001, gid=2001, groups=(2001,), home="/home/alice")
    listen = agent_host = "127.0.0.1"
    image = None
    unknown_image = Image("missing", "missing:1", "/usr/bin/python3")
    expects = Expectations(gpus=2)

    def __init__(self, directory: Path) -> None:
        self._runs = directory / "runs"
        self.devices = directory / "devices"
        self.devices.mkdir(parents=True)
        for name in ("gpu0", "gpu1", "common"):
            (self.devices / name).touch()
        self._seen_runs: set[str] = set()
        self._cgroups = Cgroups.of_this_host()
        self._site = LocalSite(
            directory=self._runs,
            resources=Resources(cpus=8, memory_mib=1024, gpus=2),
            limits=Limits.ENFORCED,
            gpus=Gpus(ids=("0", "1"), files=(f"{self.devices}/gpu{{id}}", f"{self.devices}/common")),
            roots=Roots(
                private=(PurePosixPath("/home"), PurePosixPath("/tmp")),
                shared=(),
                hidden=(PurePosixPath(self._runs),),
            ),
            python=Path("/usr/bin/python3"),
            runner=DEFAULT_RUNNER,
        )

    def backend(self) -> Backend:
        return LocalBackend(self._site)

    def dying_at(self, step: int) -> AbstractContextManager[Countdown]:
        return dying_at_system_call(step)

    def processes(self, run_id: str) -> int:
        return marked_processes(run_id)

    async def lose_machine(self) -> None:
        """Kill whoever holds a lock: monitors, and PID 1s with all that is in their namespaces."""
        for pid in _pids():
            if pid != os.getpid() and any(self._is_lock(path) for path in _open_files(pid)):
                os.kill(pid, signal.SIGKILL)

    def _is_lock(self, path: Path) -> bool:
        return path.is_relative_to(self._runs) and path.suffix == ".lock"

    async def regain_machine(self) -> None:
        """It is the agent's own: it has never been away for longer than the runs."""

    @asynccontextmanager
    async def out_of_sight(self) -> AsyncIterator[None]:
        """Take the directory away, as of a file system that is not mounted."""
        away = self._runs.with_name("away")
        self._runs.rename(away)
        yield
        away.rename(self._runs)

    async def leftovers(self) -> list[str]:
        run_ids = [entry.name for entry in self._runs.iterdir()]
        self._seen_runs.update(run_ids)
        cgroups = [cgroup for run_id in self._seen_runs for cgroup in self._cgroups.of_run(run_id)]
        return [*run_ids, *map(str, cgroups)]


class TestLocal(BackendSuite):
    """Every case, of the local back end."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> LocalPlace:
        return LocalPlace(tmp_path / "host")

    async def test_a_run_sees_the_device_files_of_its_own_gpus_and_of_no_others(
        self, site: Site, place: LocalPlace
    ) -> None:
        script = f"#!/bin/bash\necho $(ls {place.devices} 2>&1) for $CUDA_VISIBLE_DEVICES\nexec sleep 600\n".encode()
        with_gpu = Resources(cpus=1, memory_mib=128, gpus=1)
        lives = [await site.accept(script, with_gpu), await site.accept(script, with_gpu)]
        for live in lives:
            await site.until_said_anything(live)
        seen = {site.output(live) for live in lives}
        assert seen == {b"common gpu0 for 0\n", b"common gpu1 for 1\n"}
