"""Two Debian machines, `cluster` and `site`, joined by a cable: the cluster has a Slurm, neither has Overspill."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

from tests.packaging import debian
from tests.packaging.inside import systemctl
from tests.rig import directory
from tests.rig.accounts import USERS
from tests.rig.directory import RigDirectory
from tests.rig.host import Host
from tests.rig.job_verbs import JobVerbs
from tests.rig.network import Network
from tests.rig.tree import ADDRESSES
from tests.rig.waiting import poll

#: Where the packages lie that an admin has downloaded.
DOWNLOADS = "/root"
_INSTALL = ("apt-get", "install", "--quiet", "--yes", "--no-install-recommends")
_INSTALL_TIMEOUT_S = 240.0

#: The Slurm of a site that has never heard of Overspill.
_SLURM_CONF = """\
ClusterName=mycluster
SlurmctldHost=cluster(127.0.0.1)
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd-%n
SlurmdPidFile=/run/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2,bf_min_age_reserve=0
KillWait=5
ReturnToService=2
NodeName=c1 NodeHostname=cluster NodeAddr=127.0.0.1 Port=6818 CPUs=2 RealMemory=1000
PartitionName=batch Nodes=c1 Default=YES DefaultTime=00:10:00 MaxTime=1-00:00:00 DefMemPerCPU=100
"""


class Machines(JobVerbs):
    """The two machines, running. Usable as a context manager that ends them and removes every file of theirs."""

    def __init__(self, home: RigDirectory, cluster: Host, site: Host, lease_fd: int) -> None:
        """Represent machines that run; use `up`."""
        self.cluster = cluster
        self.site = site
        self._home = home
        self._lease_fd = lease_fd

    @classmethod
    def up(cls, packages: Iterable[Path]) -> Self:
        """Start both machines, install and start the cluster's Slurm, put the packages into both `DOWNLOADS`."""
        archive = debian.base()
        home = directory.create(None)
        lease_read, lease_write = os.pipe()
        with ExitStack() as undo_on_error:
            undo_on_error.callback(home.remove_after_the_end)
            undo_on_error.callback(os.close, lease_write)
            with ThreadPoolExecutor() as both:
                roots = [home.path / name for name in ADDRESSES]
                list(both.map(lambda root: _build(root, archive, packages), roots))
                hosts = []
                with os.fdopen(lease_read, "rb") as lease:
                    for root in roots:
                        hosts.append(_start(root, lease, home))
                        undo_on_error.callback(hosts[-1].kill)
                list(both.map(_prepare, hosts))
            machines = cls(home, hosts[0], hosts[1], lease_write)
            Network(machines.cluster, machines.site).connect()
            machines._start_slurm()
            undo_on_error.pop_all()
        return machines

    def set_word(self, word: str, value: str) -> None:
        """Give a policy word in slurm.conf another value, and return when slurmctld shows it."""
        conf = "/etc/slurm/slurm.conf"
        text = self.cluster.path(conf).read_text()
        self.cluster.rewrite(conf, re.sub(rf"\b{word}=[^,\n]*", f"{word}={value}", text))
        self.cluster.run(["scontrol", "reconfigure"], check=True)
        shown = ["scontrol", "show", "config"]
        assert poll(lambda: f"{word}={value}" in self.cluster.run(shown).stdout, timeout_s=30, interval_s=0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in (self.cluster, self.site):
            host.kill()
        os.close(self._lease_fd)
        self._home.remove_after_the_end()

    def _start_slurm(self) -> None:
        _install(self.cluster, "slurmctld", "slurmd", "slurm-client")
        self.cluster.run(["install", "-d", "-o", "slurm", "/var/lib/slurm/slurmctld"], check=True)
        self.cluster.write("/etc/slurm/slurm.conf", _SLURM_CONF)
        self.cluster.write("/etc/default/slurmd", "SLURMD_OPTIONS='-N c1'\n")
        for service in ("munge", "slurmctld", "slurmd"):
            self.cluster.run(["systemctl", "start", service], timeout=60.0, check=True)


def _build(root: Path, archive: Path, packages: Iterable[Path]) -> None:
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", archive], check=True)
    for package in packages:
        shutil.copy(package, root / DOWNLOADS.lstrip("/"))
    program = root / "usr/bin/systemctl"
    shutil.copyfile(Path(systemctl.__file__), program)
    program.chmod(0o755)
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
    (root / "etc/hostname").write_text(f"{root.name}\n")


def _mounts(root: Path) -> list[list[str]]:
    return [
        ["--rbind", "/dev", str(root / "dev")],
        ["--types", "tmpfs", "--options", "mode=1777", "tmpfs", str(root / "dev/shm")],
        ["--types", "proc", "proc", str(root / "proc")],
        ["--rbind", "--options", "ro", "/sys", str(root / "sys")],
    ]


def _start(root: Path, lease: IO[bytes], home: RigDirectory) -> Host:
    return Host.start(root.name, root, mounts=_mounts(root), lease=lease, kept_fds=home.kept_fds)


def _prepare(host: Host) -> None:
    """Add the users."""
    for user in USERS:
        # --badname: one of them has a blank and a quote in its name.
        useradd = ["useradd", "--badname", "--create-home", f"--uid={user.uid}", "--shell=/bin/bash", user.name]
        host.run(useradd, check=True)


def _install(host: Host, *packages: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    host.run([*_INSTALL, *packages], env=environment, timeout=_INSTALL_TIMEOUT_S, check=True)
