"""What the operator offers, and to whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from overspill_agent.catalogue import Catalogue
from overspill_agent.config import ClusterSection

#: Of a cluster that agent.toml says nothing of.
_USUAL = ClusterSection()


@dataclass(frozen=True, slots=True)
class Terms:
    """What agent.toml says of the runs that are taken.

    Attributes:
        accounts: for each cluster, as which account here each of its users' runs run.
        catalogue: what they run in.
        backend: the name of the back end that they run on.
        limits: what some of the clusters may have.
    """

    accounts: Mapping[str, Mapping[str, str]]
    catalogue: Catalogue
    backend: str
    limits: Mapping[str, ClusterSection]

    def limits_of(self, slurm_cluster: str) -> ClusterSection:
        return self.limits.get(slurm_cluster, _USUAL)
