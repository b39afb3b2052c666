"""What each cluster may have here: `[clusters.NAME]`."""

from __future__ import annotations

from pydantic import Field

from overspill_agent.config.section import Section


class ClusterSection(Section):
    """Limits of one cluster. What goes beyond them is refused for now, and no cluster is told of more.

    Attributes:
        max_runs: unfinished runs at once.
        max_cpus, max_memory_mib, max_gpus: of all its unfinished runs together; None: no such limit.
        share: the part of the site's CPUs, memory and GPUs that all its unfinished runs may have together; each is
            rounded down.
        max_spec_kib: of one run: its script, arguments and environment. A larger one is refused for good.
    """

    max_runs: int = Field(default=10_000, ge=0)
    max_cpus: int | None = Field(default=None, ge=0)
    max_memory_mib: int | None = Field(default=None, ge=0)
    max_gpus: int | None = Field(default=None, ge=0)
    share: float = Field(default=1.0, gt=0, le=1)
    max_spec_kib: int = Field(default=16_384, ge=1)
