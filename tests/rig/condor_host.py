"""An HTCondor pool with nothing round it: one host with an engine, for tests of the back end alone.

The test's own process can enter the host's network, and is then what an agent on that host would be.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from overspill_images import cgroups
from overspill_images.builder import Image
from tests.rig import directory, engine_store
from tests.rig.bringup import plain_umask
from tests.rig.condor import CHANGED_IMAGE, CondorPool
from tests.rig.directory import RigDirectory
from tests.rig.engine import HostEngine
from tests.rig.host import Host
from tests.rig.progress import silent
from tests.rig.site_backend import SiteBackend
from tests.rig.systems import THIS_MACHINE
from tests.rig.tree import build_tree, system_mounts

_DIRECTORIES = {"srv/condor": ("root", 0o755)}
_CLONE_NEWNET = 0x40000000


class CondorHost:
    """A host with a pool; it ends with `down` or with this program."""

    def __init__(self, home: RigDirectory, host: Host, lease_fd: int, images: list[Image]) -> None:
        self.host = host
        self._home = home
        self._lease_fd = lease_fd
        self.engine = HostEngine(host)
        self.pool = CondorPool(host)
        self.run_image = images[0].reference

    @classmethod
    def up(cls) -> Self:
        """Bring it up: some seconds, once the machine has the images."""
        images = engine_store.prepare(SiteBackend.HTCONDOR.images, silent)
        home = directory.create()
        lease_read, lease_write = os.pipe()
        root = home.path / "site"
        with plain_umask():
            build_tree(root, system=THIS_MACHINE.root, directories=_DIRECTORIES)
            local = home.path / "site-local"
            local.mkdir()
            mounts = system_mounts(root, system=THIS_MACHINE.root, local=local)
            engine_store.fill(root, images)
        with os.fdopen(lease_read, "rb") as lease:
            host = Host.start("site", root, mounts=mounts, lease=lease, kept_fds=home.kept_fds)
        up = cls(home, host, lease_write, images)
        try:
            up.host.run(["ip", "link", "set", "lo", "up"], check=True)
            up.engine.start()
            up.pool.start()
        except BaseException:
            up.down()
            raise
        return up

    def image_with(self, change: str) -> str:
        """Return the reference of an image like that of runs, but for one Dockerfile instruction."""
        container = self.engine.docker("create", self.run_image).strip()
        self.engine.docker("commit", f"--change={change}", container, CHANGED_IMAGE)
        self.engine.docker("rm", container)
        return CHANGED_IMAGE

    def down(self) -> None:
        """End every process of it and remove its directory."""
        self.host.kill()
        cgroups.remove(cgroups.name_of_engine(self.host.init_pid))
        os.close(self._lease_fd)
        self._home.remove_after_the_end()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread, and those that it starts, in the host's network."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(Path(f"/proc/{self.host.init_pid}/ns/net"))
            yield
        finally:
            _enter(Path(f"/proc/self/fd/{own}"))
            os.close(own)


def _enter(namespace: Path) -> None:
    """Move this thread into a network namespace. Python has os.setns from 3.12 on."""
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))
    finally:
        os.close(descriptor)
