"""The rig: a private Slurm with Overspill on one host and a remote site with its agent on another."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from overspill_images import cgroups
from overspill_images.builder import Image
from tests.rig import directory, engine_store, layout, parts, releases, site_backend, systems
from tests.rig.bringup import check_machine, define_daemons, plain_umask, start_daemons
from tests.rig.certificates import Certificates
from tests.rig.condor import CondorPool
from tests.rig.directory import RigDirectory
from tests.rig.engine import HostEngine
from tests.rig.errors import NotUpError, RigError
from tests.rig.host import Host
from tests.rig.host_init import KEEP
from tests.rig.job_verbs import JobVerbs
from tests.rig.network import Network
from tests.rig.options import DEFAULT_POLICY, RigOptions
from tests.rig.parts import ALL_PARTS, Part
from tests.rig.progress import Progress, silent
from tests.rig.slurm_conf import ClusterOptions
from tests.rig.systems import System
from tests.rig.waiting import poll

_STATE_FILE = "rig.json"


class Rig(JobVerbs):
    """A running rig. Usable as a context manager that brings it down at the end."""

    def __init__(
        self, home: RigDirectory, cluster: Host, site: Host, options: RigOptions, lease_fd: int | None
    ) -> None:
        """Represent a rig whose hosts run; use `up` or `attach`.

        Args:
            home: its directory.
            cluster: the host of Slurm and the sidecar.
            site: the host of the agent.
            options: what it was asked to be.
            lease_fd: write end of the pipe whose end is the hosts' end, None if they stay by themselves.
        """
        self.cluster = cluster
        self.site = site
        self.network = Network(cluster, site)
        self.options = options
        self._home = home
        self._lease_fd = lease_fd
        define_daemons(cluster, site, options)

    @classmethod
    def up(
        cls,
        *,
        policy: str = DEFAULT_POLICY,
        shared: bool = False,
        without: Collection[Part] = (),
        cluster: ClusterOptions | None = None,
        slurm: str | None = None,
        backend: str | None = None,
        path: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Bring a rig up; it ends with `down`, or with this program, however this program ends.

        Args:
            policy: words for SlurmctldParameters, separated by commas or blanks.
            shared: whether the site sees the cluster's /home.
            without: parts of Overspill to leave out; the others start regardless.
            cluster: nodes, sizes, KillWait and more.
            slurm: release of the cluster's Slurm, one of `releases.RELEASES`; by default what RIG_SLURM says, else this
                machine's own. The first rig of another release makes a Debian of its own for it, in some minutes.
            backend: of the site's agent; by default what the environment says, see `site_backend`.
            path: its directory; by default one with a fresh name under /var/tmp.
            progress: called with a line per step.

        Raises:
            AlreadyUpError: if a rig runs in `path`.
            RigError: with the end of the log of what failed; the directory stays until the next rig of this checkout.
        """
        options = RigOptions(
            policy,
            shared,
            ALL_PARTS - frozenset(without),
            cluster or ClusterOptions(),
            releases.named(slurm),
            site_backend.named(backend),
        )
        check_machine(options)
        with plain_umask():
            system = systems.of_release(options.slurm, progress)
            images = engine_store.prepare(options.backend.images, progress)
        home = directory.create(path)
        lease_read, lease_write = os.pipe()
        with ExitStack() as undo_on_error:
            undo_on_error.push(partial(_say_where_the_files_are, home.path))
            undo_on_error.callback(home.release)
            undo_on_error.callback(os.close, lease_write)
            progress(f"files in {home.path}")
            with plain_umask():
                mounts = _write_files(home.path, options, system, images)
            hosts = {}
            with os.fdopen(lease_read, "rb") as lease:
                for name, needed in mounts.items():
                    progress(f"host {name}")
                    root = home.path / name
                    hosts[name] = Host.start(name, root, mounts=needed, lease=lease, kept_fds=home.kept_fds)
                    undo_on_error.callback(hosts[name].kill)
            rig = cls(home, hosts["cluster"], hosts["site"], options, lease_write)
            rig._save()
            rig.network.connect()
            start_daemons(rig.cluster, rig.site, options, progress)
            undo_on_error.pop_all()
        progress("up")
        return rig

    @classmethod
    def attach(cls, path: Path) -> Self:
        """Return the rig that another program has left running in `path`.

        Raises:
            NotUpError: if none does, or it is still being brought up.
        """
        state_file = path / _STATE_FILE
        if not directory.is_alive(path) or not state_file.exists():
            raise NotUpError(f"no rig is up in {path}")
        state = json.loads(state_file.read_text())
        hosts = [Host(name, path / name, **identity) for name, identity in state["hosts"].items()]
        return cls(RigDirectory(path), hosts[0], hosts[1], RigOptions.from_json(state["options"]), None)

    @property
    def path(self) -> Path:
        """The directory that holds everything of the rig."""
        return self._home.path

    @property
    def engine(self) -> HostEngine:
        """The site's container engine, if the back end has one."""
        return HostEngine(self.site)

    @property
    def pool(self) -> CondorPool:
        """The site's HTCondor pool, if the back end is that."""
        return CondorPool(self.site)

    @property
    def certificates(self) -> Certificates:
        """The authority of both ends' certificates."""
        return Certificates(self.path / "ca")

    def set_slurm_conf(self, *more_lines: str) -> None:
        """Replace the lines at the end of slurm.conf; what `scontrol update` has changed is as in slurm.conf again."""
        self.options = replace(self.options, cluster=replace(self.options.cluster, more_lines=more_lines))
        self._save()
        layout.write_slurm_conf(self.path / self.cluster.name, self.options)
        self.cluster.run(["scontrol", "reconfigure"], check=True)

    def set_policy(self, policy: str) -> None:
        """Replace the policy words in slurm.conf and return when slurmctld shows them.

        The sidecar sees them at its next refresh, within a second.
        """
        self.options = replace(self.options, policy=policy)
        self._save()
        layout.write_slurm_conf(self.path / self.cluster.name, self.options)
        self.cluster.run(["scontrol", "reconfigure"], check=True)
        shown = ["scontrol", "show", "config"]
        words = ",".join(self.options.policy_words)
        if not poll(lambda: words in self.cluster.run(shown, check=True).stdout, timeout_s=30.0, interval_s=0.1):
            raise RigError(f"slurmctld does not show the policy {words}\n{self.cluster.daemon('slurmctld').log_tail()}")

    def keep_running(self) -> None:
        """Let the rig outlive this program."""
        if self._lease_fd is not None:
            # Both hosts read the one pipe, a byte each.
            os.write(self._lease_fd, KEEP * 2)
            os.close(self._lease_fd)
            self._lease_fd = None

    def down(self) -> None:
        """End every process of the rig and remove its directory. Idempotent."""
        for host in (self.cluster, self.site):
            host.kill()
        if self.options.backend.has_engine:
            cgroups.remove(cgroups.name_of_engine(self.site.init_pid))
        if self._lease_fd is not None:
            os.close(self._lease_fd)
            self._lease_fd = None
        if self.path.exists():
            self._home.remove_after_the_end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _save(self) -> None:
        """Write what `attach` needs."""
        hosts = {
            host.name: {"init_pid": host.init_pid, "pid_namespace": host.pid_namespace}
            for host in (self.cluster, self.site)
        }
        state = {"hosts": hosts, "options": self.options.to_json()}
        new = self.path / f"{_STATE_FILE}.new"
        new.write_text(json.dumps(state))
        new.rename(self.path / _STATE_FILE)


def _say_where_the_files_are(
    path: Path, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    if error is not None:
        error.add_note(f"The hosts are gone. Their files are left in {path} until the next rig starts.")


def _write_files(path: Path, options: RigOptions, system: System, images: list[Image]) -> dict[str, list[list[str]]]:
    """Write all files of both hosts; return the mounts that each of them still needs, the cluster's first."""
    certificates = Certificates(path / "ca")
    lib = path / "lib"
    lib.mkdir()
    parts.stage_packages(lib)
    for each in {systems.THIS_MACHINE, system}:
        systems.compile_packages(each, lib, parts.PRECOMPILED)
    references = {image.name: image.reference for image in images}
    mounts = {
        "cluster": layout.build_cluster(path / "cluster", options, certificates, system),
        "site": layout.build_site(path / "site", options, certificates, references),
    }
    if images:
        engine_store.fill(path / "site", images)
    return mounts
