"""What a rig is asked to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypedDict

from tests.rig.parts import ALL_PARTS, Part
from tests.rig.releases import RELEASES, THIS_MACHINES, Release
from tests.rig.site_backend import SiteBackend
from tests.rig.slurm_conf import ClusterOptions, policy_words

DEFAULT_POLICY = "overspill_mode=on,overspill_wait=00:01:00"


class _Stored(TypedDict):
    policy: str
    has_shared_home: bool
    parts: list[str]
    cluster: dict[str, Any]
    more_lines: list[str]
    slurm: str
    backend: str


@dataclass(frozen=True, slots=True)
class RigOptions:
    """Fixed for the life of a rig, but for the policy."""

    #: Words for SlurmctldParameters, separated by commas or blanks.
    policy: str = DEFAULT_POLICY
    #: Whether the site sees the cluster's /home.
    has_shared_home: bool = False
    parts: frozenset[Part] = ALL_PARTS
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    slurm: Release = THIS_MACHINES
    backend: SiteBackend = SiteBackend.LOCAL

    @property
    def policy_words(self) -> tuple[str, ...]:
        return policy_words(self.policy)

    def to_json(self) -> _Stored:
        """Return what `from_json` understands."""
        cluster = asdict(self.cluster)
        more_lines = list(cluster.pop("more_lines"))
        return {
            "policy": self.policy,
            "has_shared_home": self.has_shared_home,
            "parts": sorted(self.parts),
            "cluster": cluster,
            "more_lines": more_lines,
            "slurm": self.slurm.name,
            "backend": self.backend,
        }

    @classmethod
    def from_json(cls, stored: _Stored) -> Self:
        """Return the options that `to_json` was called on."""
        return cls(
            policy=stored["policy"],
            has_shared_home=stored["has_shared_home"],
            parts=frozenset(Part(name) for name in stored["parts"]),
            cluster=ClusterOptions(**stored["cluster"], more_lines=tuple(stored["more_lines"])),
            slurm=RELEASES[stored["slurm"]],
            backend=SiteBackend(stored["backend"]),
        )
