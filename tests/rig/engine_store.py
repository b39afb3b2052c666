"""What a host's engine has stored from the beginning: images of ours.

Loading images takes many seconds, a copy of an engine's store takes one: the store of an engine that has loaded them is
kept in the cache, and what is large in it is linked, not copied. Docker never writes to a file of an image's layer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from overspill_images.builder import Builder, Image, Options
from overspill_images.cache import CACHE, locked
from overspill_images.engine import Engine
from overspill_images.process import run
from tests.rig.engine import DATA
from tests.rig.progress import Progress

#: In an engine's directory.
_STORE = "data"
#: In an engine's store: all layers' files, most of what it has.
_LAYERS = "overlay2"
#: Stores that nobody has used for so long are removed.
_KEPT_S = 14 * 86_400.0


def prepare(names: Sequence[str], progress: Progress) -> list[Image]:
    """Return these images of ours, loaded into a store that can be copied: minutes, once per machine."""
    if not names:
        return []
    built = {image.name: image for image in Builder(Options(), progress).build([*names])}
    wanted = [built[name] for name in names]
    with locked(CACHE / "stores" / "lock"):
        if not _store_of(wanted).exists():
            progress("an engine loads the images, once per machine")
            partial = CACHE / "stores" / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            with Engine(partial) as engine:
                for image in wanted:
                    engine.load(image.archive)
            partial.rename(_store_of(wanted))
        os.utime(_store_of(wanted))  # used now
        _remove_old()
    return wanted


def fill(host_root: Path, wanted: Sequence[Image]) -> None:
    """Give the engine of the host in `host_root`, which is not started yet, what was prepared."""
    target = host_root / DATA.lstrip("/")
    target.mkdir(parents=True, mode=0o710)
    for entry in (_store_of(wanted) / _STORE).iterdir():
        # Links need one file system; between two, `cp` would fail for each file.
        is_linked = entry.name == _LAYERS and entry.stat().st_dev == target.stat().st_dev
        run("cp", "--archive", *(["--link"] if is_linked else []), str(entry), str(target))


def _remove_old() -> None:
    for path in (CACHE / "stores").iterdir():
        if path.is_dir() and path.stat().st_mtime < time.time() - _KEPT_S:
            shutil.rmtree(path)


def _store_of(wanted: Sequence[Image]) -> Path:
    """Return the directory of the engine that has loaded these images, and ended."""
    recipe = hashlib.sha256(" ".join(str(image.archive) for image in wanted).encode()).hexdigest()[:16]
    return CACHE / "stores" / recipe
