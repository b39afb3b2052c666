"""A private Slurm and a remote site on one machine, for tests, the demo and a person's own trying out.

Two sets of Linux namespaces act as two hosts, `cluster` and `site`, joined by a virtual cable. Each has its own file
system (a directory tree with this machine's /usr mounted into it), processes, host name and network, so Slurm uses its
usual paths and ports, several rigs live side by side, and this machine is not changed. Each host is held by a PID 1 of
ours (`host_init.py`): when that ends, the kernel ends everything in the host.

Everything of a rig is in one directory under /var/tmp. A rig ends with the program that brought it up, however that
ends, unless `keep_running` was called; what a dead rig leaves is removed when the next one starts.
"""

from tests.rig.errors import (
    AlreadyUpError,
    CommandError,
    DaemonError,
    JobStateError,
    NotUpError,
    RigError,
)
from tests.rig.host import Host
from tests.rig.options import DEFAULT_POLICY, RigOptions
from tests.rig.parts import Part
from tests.rig.rig import Rig
from tests.rig.site_backend import SiteBackend
from tests.rig.slurm_conf import ClusterOptions

__all__ = [
    "DEFAULT_POLICY",
    "AlreadyUpError",
    "ClusterOptions",
    "CommandError",
    "DaemonError",
    "Host",
    "JobStateError",
    "NotUpError",
    "Part",
    "Rig",
    "RigError",
    "RigOptions",
    "SiteBackend",
]
