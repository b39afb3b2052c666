"""The site's images: `[images.NAME]`, and for which jobs each is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from overspill_agent.config.section import AbsolutePath, Section


class ImageSection(Section):
    """One image.

    Attributes:
        reference: as the container engine knows it.
        partitions: the clusters' partitions whose jobs run in it, unless one of its `features` decides.
        features: words of --constraint that choose it.
        is_default: for the jobs that nothing else chooses one for; at most one image is.
        python: the interpreter, in the image, that runs the runner; at least 3.8.
        pull: "missing" lets the engine fetch it from its registry if it is not there; "never" does not.
        max_cpus, max_memory_mib, max_gpus: a job that asks for more is refused this image; None: no such limit.
    """

    reference: str = Field(min_length=1)
    partitions: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    is_default: bool = Field(default=False, alias="default")
    python: AbsolutePath = Path("/usr/bin/python3")
    pull: Literal["never", "missing"] = "never"
    max_cpus: int | None = Field(default=None, ge=1)
    max_memory_mib: int | None = Field(default=None, ge=1)
    max_gpus: int | None = Field(default=None, ge=0)
