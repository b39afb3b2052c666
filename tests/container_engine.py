"""A Docker engine for tests that need no rig: on this machine's network, with this machine's paths, for one program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from overspill_images.builder import Builder
from overspill_images.engine import Engine
from tests.rig import directory


@contextmanager
def engine_with(*names: str) -> Iterator[Engine]:
    """Start an engine that has these images of ours; it ends with the context, or with this program, however that ends.

    Containers use this machine's network (`--network host`) or none. What a killed program leaves on disk is removed by
    the next engine or rig of this checkout.
    """
    images = {image.name: image for image in Builder().build(names)}
    home = directory.create(None)
    try:
        with Engine(home.path / "engine", kept_fds=home.kept_fds) as engine:
            for name in names:
                engine.load(images[name].archive)
            yield engine
    finally:
        home.remove_after_the_end()
