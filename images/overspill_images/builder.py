"""From recipes to images: built in an engine of the builder's own, kept as archives, built again only if need be."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from overspill import __version__
from overspill_images import context, recipe
from overspill_images.base import Base
from overspill_images.cache import CACHE, locked
from overspill_images.engine import Engine, docker, docker_lines
from overspill_images.recipe import NAMESPACE, Recipe

#: Where an image says what is in it.
PACKAGES = "/usr/share/overspill/packages.tsv"
_DIGEST_CHARACTERS = 16
#: Archives that nobody has used for so long are removed.
_KEPT_S = 14 * 86400.0
_STEP = "Step "

Progress = Callable[[str], None]


def silent(step: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may ask for."""

    #: What takes the place of a Debian made by debootstrap: an image's name in a registry, or an archive of
    #: `docker save`. Empty: nothing.
    base: str = ""
    #: Certificates, in PEM form, that an image shall trust besides its own.
    ca: Path | None = None
    #: Whether to build again what was built already, with the packages of today.
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was built, now or before."""

    name: str
    #: As in `docker run REFERENCE`.
    reference: str
    #: What `docker load` reads.
    archive: Path
    size_bytes: int
    build_s: float
    #: Whether it was in the cache.
    is_cached: bool

    @property
    def packages(self) -> Path:
        """A table of the Debian packages in it: name, version, architecture."""
        return self.archive.with_suffix(".packages.tsv")


class Builder:
    """Builds images into a cache directory; one program at a time, others wait."""

    def __init__(self, options: Options | None = None, progress: Progress = silent, *, cache: Path = CACHE) -> None:
        """Build nothing yet.

        Args:
            options: what a person asked for.
            progress: called with a line per step.
            cache: where images, and what the engine that makes them stores, are kept.
        """
        self._options = options or Options()
        self._progress = progress
        self._base = Base(self._options.base, cache=cache)
        self._directory = cache / "images"
        self._engine = Engine(cache / "engine")

    def build(self, names: Sequence[str]) -> list[Image]:
        """Return these images and, before them, those that they are made from; what is in the cache is not built.

        Raises:
            ChildProcessError: with the end of what the failed command said.
            EngineError: if no engine can be started.
            RecipeError: if there is no such image.
            ValueError: if the certificates or the archive of the base are none.
        """
        wanted = {made.name: made for name in names for made in recipe.with_parents(name)}
        ca = b"".join(context.split_certificates(self._options.ca)) if self._options.ca else b""
        digests = self._digests(wanted, ca)
        if not self._options.is_fresh and all(self._is_cached(made.name, digests) for made in wanted.values()):
            # Without the lock: who needs a small image does not wait for somebody's large one.
            return [self._image(made, digests) for made in wanted.values()]
        with locked(self._directory / "lock"):
            self._remove_unused()
            try:
                return [self._image(made, digests) for made in wanted.values()]
            finally:
                self._engine.stop()

    def _digests(self, wanted: dict[str, Recipe], ca: bytes) -> dict[str, str]:
        """Return, for each image, a digest of everything that it is made of."""
        digests: dict[str, str] = {}
        for made in wanted.values():
            below = digests[made.parent] if made.parent else self._base.digest(made.suite)
            whole = hashlib.sha256(f"{made.digest} {below} {__version__} ".encode() + ca)
            digests[made.name] = whole.hexdigest()[:_DIGEST_CHARACTERS]
        return digests

    def _image(self, made: Recipe, digests: dict[str, str]) -> Image:
        archive = self._archive(made.name, digests)
        reference = f"{NAMESPACE}/{made.name}:{__version__}"
        facts = archive.with_suffix(".json")
        is_cached = self._is_cached(made.name, digests) and not self._options.is_fresh
        if is_cached:
            facts.touch()
        else:
            began = time.monotonic()
            self._engine.start()
            size_bytes = self._build(made, digests, reference, archive)
            facts.write_text(json.dumps({"size_bytes": size_bytes, "build_s": round(time.monotonic() - began, 1)}))
        return Image(made.name, reference, archive, is_cached=is_cached, **json.loads(facts.read_text()))

    def _archive(self, name: str, digests: dict[str, str]) -> Path:
        return self._directory / f"{name}-{digests[name]}.tar"

    def _is_cached(self, name: str, digests: dict[str, str]) -> bool:
        return self._archive(name, digests).with_suffix(".json").exists()

    def _build(self, made: Recipe, digests: dict[str, str], reference: str, archive: Path) -> int:
        """Build one image, write its archive and its list of packages; return its size in bytes."""
        socket = self._engine.socket
        if made.parent:
            below, base_name = self._parent(made.parent, digests), f"{NAMESPACE}/{made.parent}:{__version__}"
        else:
            below, base_name = self._base.reference(socket, made.suite), self._base.name(made.suite)
        ours = _own_tag(made.name, digests)
        labels = context.labels(made, base_name, context.build_time())
        with tempfile.TemporaryDirectory(prefix="overspill-image.") as directory:
            context.write(made, Path(directory), self._options.ca)
            argv = ["build", "--network=host", f"--tag={ours}", *(["--no-cache"] if self._options.is_fresh else [])]
            argv += [*context.options("build-arg", context.arguments(below)), *context.options("label", labels)]
            self._docker_build(made.name, [*argv, directory])
        return self._save(ours, reference, archive)

    def _parent(self, name: str, digests: dict[str, str]) -> str:
        """Return the name by which the engine has an image of ours, loaded if its store was removed meanwhile."""
        ours = _own_tag(name, digests)
        if not docker(self._engine.socket, "images", "--quiet", ours):
            self._progress(f"{name}: load")
            self._engine.load(self._archive(name, digests))
            docker(self._engine.socket, "tag", f"{NAMESPACE}/{name}:{__version__}", ours)
        return ours

    def _docker_build(self, name: str, argv: list[str]) -> None:
        log = self._directory / f"{name}.log"
        self._progress(f"{name}: build (log in {log})")
        with log.open("w") as file:
            for line in docker_lines(self._engine.socket, *argv):
                file.write(line)
                if line.startswith(_STEP):
                    self._progress(f"{name}: {line.strip()}")

    def _save(self, ours: str, reference: str, archive: Path) -> int:
        socket = self._engine.socket
        self._progress(f"{reference}: save")
        packages = docker(socket, "run", "--rm", "--network=none", "--entrypoint=cat", ours, PACKAGES)
        archive.with_suffix(".packages.tsv").write_text(packages)
        docker(socket, "tag", ours, reference)
        partial = archive.with_suffix(".partial")
        docker(socket, "save", "--output", str(partial), reference)
        partial.rename(archive)
        docker(socket, "image", "prune", "--force")
        return int(docker(socket, "image", "inspect", "--format={{.Size}}", ours))

    def _remove_unused(self) -> None:
        for facts in self._directory.glob("*.json"):
            if time.time() - facts.stat().st_mtime > _KEPT_S:
                for suffix in (".json", ".packages.tsv", ".tar"):
                    facts.with_suffix(suffix).unlink(missing_ok=True)


def _own_tag(name: str, digests: dict[str, str]) -> str:
    """Return a tag that says what is inside: the public one is the same for every variant of an image."""
    return f"overspill-build/{name}:{digests[name]}"
