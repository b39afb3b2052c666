"""What images are made from that is no image of ours: a Debian of debootstrap's, or what an admin names."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from overspill_images import debian
from overspill_images.cache import CACHE
from overspill_images.engine import docker
from overspill_images.process import run

#: What of a Debian tree is in no image: this machine's names, what was downloaded, what nobody reads in a container.
_LEFT_OUT = (
    *("./etc/hostname", "./etc/resolv.conf", "./dev/*", "./proc/*", "./sys/*", "./tmp/*", "./var/log/*"),
    *("./var/lib/apt/lists/*", "./var/cache/*", "./usr/share/man/*", "./usr/share/info/*", "./usr/share/locale/*/*"),
)
#: The same for packages that come later.
_DPKG_CFG = """\
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
"""
#: Changes whenever the same tree becomes another image.
_RECIPE = "2"
_LOADED = "Loaded image: "


class Base:
    """The image at the bottom of all others."""

    def __init__(self, wanted: str = "", *, cache: Path = CACHE) -> None:
        """Decide what it is.

        Args:
            wanted: an image's name in a registry, or an archive of `docker save`, or nothing: debootstrap's Debian.
            cache: where trees of Debian are kept.
        """
        self._wanted = wanted
        self._cache = cache
        self._archive = Path(wanted) if wanted and Path(wanted).is_file() else None

    def digest(self, suite: str) -> str:
        """Return a hash of what the image would be made of; of an image in a registry, of its name."""
        if self._archive is not None:
            with self._archive.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return self._wanted or f"{debian.base_tree(suite, cache=self._cache).name}-{_RECIPE}"

    def name(self, suite: str) -> str:
        """Return what a person calls it."""
        return self._wanted or f"debian:{suite} (debootstrap)"

    def reference(self, socket: Path, suite: str) -> str:
        """Return the name by which the engine at `socket` has it, or can pull it.

        Raises:
            ChildProcessError: if it cannot be loaded.
            ValueError: if the archive has no image with a name.
        """
        if self._archive is not None:
            return _load(socket, self._archive)
        return self._wanted or self._import(socket, suite)

    def _import(self, socket: Path, suite: str) -> str:
        tree = debian.base_tree(suite, cache=self._cache)
        reference = f"overspill-build/debian:{tree.name}-{_RECIPE}"
        if not docker(socket, "images", "--quiet", reference):
            with tempfile.TemporaryDirectory(dir=self._cache, prefix="import.") as directory:
                archive = _pack(tree, Path(directory))
                docker(socket, "import", "--change", 'CMD ["/bin/bash"]', str(archive), reference)
        return reference


def _pack(tree: Path, directory: Path) -> Path:
    """Return a tar archive of the tree as it is to be in an image."""
    more = directory / "more"
    excludes = more / "etc/dpkg/dpkg.cfg.d/overspill"
    excludes.parent.mkdir(parents=True)
    excludes.write_text(_DPKG_CFG)
    archive = directory / "debian.tar"
    patterns = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    run("tar", "--numeric-owner", f"--directory={tree}", *patterns, "-cf", str(archive), ".")
    run("tar", "--numeric-owner", f"--directory={more}", "-rf", str(archive), "etc/dpkg/dpkg.cfg.d/overspill")
    shutil.rmtree(more)
    return archive


def _load(socket: Path, archive: Path) -> str:
    said = docker(socket, "load", "--quiet", "--input", str(archive))
    references = [line.removeprefix(_LOADED) for line in said.splitlines() if line.startswith(_LOADED)]
    if not references:
        raise ValueError(f"{archive} has no image with a name; make it with `docker save NAME:TAG`")
    return references[0]
