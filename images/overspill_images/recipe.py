"""What an image is made of: its directory below `images/`, what it is based on, and a hash that names the result."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[1]
#: Files that every image's Dockerfile may copy.
_COMMON = IMAGES / "common"
#: The first part of every image's name.
NAMESPACE = "overspill"
#: The image that is nothing but a tree of debootstrap's; its tag is the suite.
_DEBIAN = f"{NAMESPACE}/debian"
_DOCKERFILE = "Dockerfile"
#: Of the versions in an image's `packages.lock` nothing is made: a recorded drift builds nothing anew.
_NO_INGREDIENTS = frozenset({"packages.lock"})
_BASE = re.compile(r"^ARG BASE=(?P<name>[^:\s]+)(:(?P<tag>\S+))?$", re.MULTILINE)


class RecipeError(Exception):
    """There is no such image, or its directory does not say what it is made of."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One directory below `images/`."""

    name: str
    #: Of the Debian at the bottom of it.
    suite: str
    #: The image that it is made from; None if it is made from the Debian itself.
    parent: str | None

    @property
    def directory(self) -> Path:
        return IMAGES / self.name

    @property
    def files(self) -> dict[str, Path]:
        """What the build sees: the files common to all images and the image's own, by name.

        Directories below the image's are no part of it: what is in them comes into a container when it is started.
        """
        return {
            path.name: path
            for root in (_COMMON, self.directory)
            for path in sorted(root.iterdir())
            if path.is_file() and path.name not in _NO_INGREDIENTS
        }

    @property
    def digest(self) -> str:
        """A hash of all files' names, modes and contents."""
        whole = hashlib.sha256()
        for name, path in self.files.items():
            whole.update(f"{name} {path.stat().st_mode & 0o111} {path.stat().st_size}\n".encode() + path.read_bytes())
        return whole.hexdigest()


def read(name: str) -> Recipe:
    """Return the recipe of an image.

    Raises:
        RecipeError: naming those that exist, if there is none of this name.
    """
    dockerfile = IMAGES / name / _DOCKERFILE
    if name not in names():
        raise RecipeError(f"no image {name!r}; there are {', '.join(names())}")
    base = _BASE.search(dockerfile.read_text(encoding="utf-8"))
    if base is None:
        raise RecipeError(f"{dockerfile} has no line ARG BASE={_DEBIAN}:SUITE or ARG BASE={NAMESPACE}/IMAGE")
    if base["name"] == _DEBIAN and base["tag"]:
        return Recipe(name, base["tag"], None)
    parent = base["name"].removeprefix(f"{NAMESPACE}/")
    if parent not in names():
        raise RecipeError(f"{dockerfile} is based on {base['name']}, which is no image of this directory")
    return Recipe(name, read(parent).suite, parent)


def with_parents(name: str) -> list[Recipe]:
    """Return the recipe of an image after those of the images that it is made from; errors as of `read`."""
    made = read(name)
    return [*(with_parents(made.parent) if made.parent else []), made]


def names() -> list[str]:
    """Return all images' names."""
    return sorted(path.parent.name for path in IMAGES.glob(f"*/{_DOCKERFILE}"))
