"""A private Slurm and a remote site on one machine, for tests, the demo and a person's own trying out."""

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
]
