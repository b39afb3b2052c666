"""The site's images: `[images.NAME]`, and for which jobs each is."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from overspill_agent.config.section import AbsolutePath, Section


def _be_a_name(value: str) -> str:
    if not re.fullmatch(r"[\w.-]+", value, re.ASCII):
        raise ValueError("an image's name here is of letters, digits and . _ -; the engine's is `reference`")
    return value


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


def _be_for_different_jobs(images: dict[str, ImageSection]) -> dict[str, ImageSection]:
    for kind in ("partitions", "features"):
        listed = Counter(word for image in images.values() for word in set(getattr(image, kind)))
        if twice := sorted(word for word, count in listed.items() if count > 1):
            raise ValueError(f"several images list {', '.join(twice)} in their {kind}; only one can")
    defaults = [name for name, image in images.items() if image.is_default]
    if len(defaults) > 1:
        raise ValueError(f"{', '.join(defaults)} are all the default image; only one can be")
    return images


ImageName = Annotated[str, AfterValidator(_be_a_name)]
Images = Annotated[dict[ImageName, ImageSection], AfterValidator(_be_for_different_jobs)]
