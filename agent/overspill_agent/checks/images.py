"""The catalogue: whether its images can run jobs here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from overspill.cli.finding import Finding, error, ok, warning
from overspill.errors import OverspillError
from overspill_agent.backend import backend_of
from overspill_agent.config import AgentConfig
from overspill_agent.presence import presences


def images(config: AgentConfig) -> Iterator[Finding]:
    """Look at each image as the back end would before it takes a run."""
    if not config.images:
        return
    try:
        found = asyncio.run(presences(config, backend_of(config)))
    except OverspillError as failure:
        yield error("images", f"the back end cannot be asked: {failure.reason}", "see what is told of the back end")
        return
    for name, presence in found.items():
        if presence.is_present is None:
            yield warning(f"image {name}", presence.reason, "it is looked at again before each run")
        elif presence.is_present:
            yield ok(f"image {name}", f"{config.images[name].reference} can run jobs")
        else:
            yield error(f"image {name}", presence.reason, "load the image, or correct [images]")
