"""The two hosts' file systems: what lies where. Everything is on disk before a host starts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from tests.rig import back_end_conf, overspill_conf, parts, slurm_conf
from tests.rig.accounts import numbers_of
from tests.rig.certificates import Certificates
from tests.rig.files import replace_file
from tests.rig.options import RigOptions
from tests.rig.parts import Part
from tests.rig.slurm_conf import ClusterOptions
from tests.rig.systems import THIS_MACHINE, System
from tests.rig.tree import bind, build_tree, system_mounts

_MUNGE_KEY_BYTES = 128
_CLUSTER_DIRECTORIES = {
    "etc/munge": ("munge", 0o700),
    "etc/overspill": ("root", 0o755),
    "etc/slurm": ("root", 0o755),
    "run/munge": ("munge", 0o755),
    "run/overspill": ("slurm", 0o755),
    "run/mysqld": ("slurm", 0o755),
    "var/lib/munge": ("munge", 0o711),
    "var/lib/mysql": ("slurm", 0o700),
    "var/lib/overspill": ("slurm", 0o700),
    "var/lib/overspill/pki": ("slurm", 0o700),
    "var/lib/slurm": ("slurm", 0o755),
    "var/lib/slurm/slurmctld": ("slurm", 0o700),
    "var/log/munge": ("munge", 0o700),
    "var/log/slurm": ("slurm", 0o755),
    "var/spool/slurmd": ("root", 0o755),
}
_SITE_DIRECTORIES = {
    "etc/overspill": ("root", 0o755),
    "var/lib/overspill-agent": ("root", 0o700),
    "var/lib/overspill-agent-b": ("root", 0o700),
}


def build_cluster(root: Path, options: RigOptions, certificates: Certificates, system: System) -> list[list[str]]:
    """Write the cluster's files under `root`; return the mounts that complete them."""
    build_tree(root, system=system.root, directories=_CLUSTER_DIRECTORIES)
    write_slurm_conf(root, options)
    _write(root / "etc/munge/munge.key", secrets.token_bytes(_MUNGE_KEY_BYTES), owner="munge", mode=0o400)
    for site in overspill_conf.SITES:
        _write_enrolled(root / overspill_conf.CLUSTER_PKI.lstrip("/") / site, certificates)
    _write(root / overspill_conf.SIDECAR_CONF.lstrip("/"), overspill_conf.sidecar_toml(options.cluster).encode())
    local = root.with_name("cluster-local")
    parts.stage_command(local / "bin")
    if Part.JOB_SUBMIT in options.parts:
        parts.stage_job_submit(local / "share/lua/5.1", root / "etc/slurm")
    if Part.SPANK in options.parts:
        parts.stage_spank(system.spank_plugin, root / "opt/overspill")
        _write(root / "etc/slurm/plugstack.conf", slurm_conf.plugstack_conf().encode())
    if options.slurm.cgroup_conf:
        _write(root / "etc/slurm/cgroup.conf", options.slurm.cgroup_conf.encode())
    if options.cluster.gpus:
        _write_gpus(root, options.cluster)
    if options.cluster.accounting:
        _write(root / "etc/slurm/slurmdbd.conf", slurm_conf.slurmdbd_conf().encode(), owner="slurm", mode=0o600)
    return [*system_mounts(root, system=system.root, local=local), *_overspill_mounts(root, system)]


def _write_gpus(root: Path, cluster: ClusterOptions) -> None:
    """Give each node its GPUs. Slurm ignores a GPU without a file, and takes a plain file for the device."""
    directory = root / "var/lib/gpu"
    directory.mkdir()
    for index in range(cluster.gpus):
        (directory / str(index)).touch()
    kind = f" Type={cluster.gpu_type}" if cluster.gpu_type else ""
    _write(root / "etc/slurm/gres.conf", f"Name=gpu{kind} File=/var/lib/gpu/[0-{cluster.gpus - 1}]\n".encode())


def build_site(
    root: Path, options: RigOptions, certificates: Certificates, images: Mapping[str, str]
) -> list[list[str]]:
    """Write the site's files under `root`; return the mounts that complete them.

    `images` are references by name; the first is what jobs run in.
    """
    build_tree(root, system=THIS_MACHINE.root, directories=_SITE_DIRECTORIES)
    certificates.copy_to(root / overspill_conf.SITE_PKI.lstrip("/"))
    for path, is_second in ((overspill_conf.AGENT_CONF, False), (overspill_conf.SECOND_AGENT_CONF, True)):
        state = overspill_conf.agent_state(is_second=is_second)
        back_end = back_end_conf.sections(options, state=state, images=images)
        _write(root / path.lstrip("/"), overspill_conf.agent_toml(back_end, is_second=is_second).encode())
    local = root.with_name("site-local")
    parts.stage_command(local / "bin")
    mounts = [*system_mounts(root, system=THIS_MACHINE.root, local=local), *_overspill_mounts(root, THIS_MACHINE)]
    if options.has_shared_home:
        mounts.append(bind(root.with_name("cluster") / "home", root / "home", is_writable=True))
    return mounts


def write_slurm_conf(cluster_root: Path, options: RigOptions) -> None:
    """Write slurm.conf anew."""
    text = slurm_conf.slurm_conf(
        options.cluster,
        options.policy_words,
        job_submit=Part.JOB_SUBMIT in options.parts,
        spank=Part.SPANK in options.parts,
    )
    _write(cluster_root / "etc/slurm/slurm.conf", text.encode())


def _overspill_mounts(root: Path, system: System) -> list[list[str]]:
    """Return the mounts of what both hosts share: the staged packages and the Python environment."""
    overspill = root / "opt/overspill"
    return [bind(root.with_name("lib"), overspill / "lib"), bind(system.venv, overspill / "venv")]


def _write_enrolled(directory: Path, certificates: Certificates) -> None:
    """Write what `overspill enroll` would."""
    directory.mkdir()
    os.chown(directory, *numbers_of("slurm"))
    directory.chmod(0o700)
    _write(directory / "ca.pem", certificates.ca_certificate, owner="slurm")
    _write(directory / "cluster.pem", certificates.issue("rig"), owner="slurm", mode=0o600)


def _write(path: Path, content: bytes, *, owner: str = "root", mode: int = 0o644) -> None:
    replace_file(path, content, owner=numbers_of(owner), mode=mode)
