"""Trees of Debian with nothing but the essential packages, made by debootstrap once per machine and kept.

Everything comes from where this machine's own apt gets it; no mirror is named here.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from overspill_images.cache import CACHE, locked
from overspill_images.process import run

#: What apt in a tree needs to reach the machine's sources. Copied, where it exists, over what the tree has.
_APT_FILES = (
    *("etc/apt/apt.conf.d", "etc/apt/auth.conf.d", "etc/apt/keyrings", "etc/apt/trusted.gpg.d"),
    *("etc/ssl/certs", "usr/local/share/ca-certificates", "etc/resolv.conf", "etc/hosts"),
)
#: Nothing is started at installation; and a tree that can be made again need not survive a power cut.
_OURS = {"usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n", "etc/dpkg/dpkg.cfg.d/fast": "force-unsafe-io\n"}
_DEBOOTSTRAP_SCRIPTS = Path("/usr/share/debootstrap/scripts")
#: debootstrap knows no suite that is younger than itself. All of Debian's scripts are this one.
_ANY_SUITE = "sid"
#: Which of them exist is only known to the archive: the newest suite has neither.
_COMPANIONS = {"Debian": "{suite}-updates", "Debian-Security": "{suite}-security"}
#: An archive that is mirrored may be older than it should be; its signature is checked nevertheless.
_OLD_INDEX = "Acquire::Check-Valid-Until=false"
_APT_HELPER = "/usr/lib/apt/apt-helper"
_LABEL_AND_URI = 2
#: Changes whenever `_bootstrap` makes something else of the same suite.
_RECIPE = "1"


def base_tree(suite: str, *, cache: Path = CACHE) -> Path:
    """Return the directory of a Debian of this suite: essential packages and apt, as minbase has them, up to date then.

    It has what a fresh Debian has and nothing of this machine, but for the mirror in its sources.list. Others use it
    too: copy it (`cp -a`), never write into it. The first call of a machine takes about a minute, others nothing;
    while one program makes a tree, others wait.

    Args:
        suite: bullseye, bookworm, trixie, forky, ...
        cache: where it is kept.

    Raises:
        ChildProcessError: with the end of what debootstrap or apt said.
    """
    origin = _mirrors().get("Debian", "")
    recipe = hashlib.sha256(f"{_RECIPE} {origin}".encode()).hexdigest()[:8]
    tree = cache / "trees" / f"{suite}-{recipe}"
    with locked(cache / "trees" / f"{suite}.lock"):
        if not tree.exists():
            _bootstrap(suite, tree)
    return tree


def lend_apt(tree: Path) -> None:
    """Let apt in this tree use this machine's way to its sources: proxies, credentials, certificates, name servers.

    For trees that stay on this machine: what is lent may be secret.
    """
    for name in _APT_FILES:
        _copy_over(Path("/", name), tree / name)
    for name, content in _OURS.items():
        (tree / name).write_text(content)
        (tree / name).chmod(0o755)


def _bootstrap(suite: str, tree: Path) -> None:
    mirrors = _mirrors()
    partial = tree.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    has_script = (_DEBOOTSTRAP_SCRIPTS / suite).exists()
    # Without a mirror debootstrap takes its own default; it takes a script only after a mirror.
    where = [mirrors.get("Debian", "")] + ([] if has_script else [str(_DEBOOTSTRAP_SCRIPTS / _ANY_SUITE)])
    run("debootstrap", "--variant=minbase", suite, str(partial), *where)
    _add_companions(suite, partial, mirrors)
    quiet = ("chroot", str(partial), "apt-get", "--quiet", "--yes", "--option", _OLD_INDEX)
    run(*quiet, "update")
    run(*quiet, "dist-upgrade")
    run(*quiet, "clean")
    partial.rename(tree)


def _add_companions(suite: str, tree: Path, mirrors: dict[str, str]) -> None:
    """Add the suite's updates to its sources.list, as far as this machine's own apt knows where such things are."""
    with (tree / "etc/apt/sources.list").open("a") as sources:
        for label, pattern in _COMPANIONS.items():
            companion = pattern.format(suite=suite)
            if label in mirrors and _exists(mirrors[label], companion):
                sources.write(f"deb {mirrors[label]} {companion} main\n")


def _exists(mirror: str, suite: str) -> bool:
    """Return whether the mirror has this suite, asked as this machine's apt would."""
    with TemporaryDirectory() as directory:
        url = f"{mirror.rstrip('/')}/dists/{suite}/InRelease"
        argv = [_APT_HELPER, "download-file", url, f"{directory}/InRelease"]
        found = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return found.returncode == 0


def _mirrors() -> dict[str, str]:
    """Return where this machine's apt gets Debian from: label -> URL. Empty if it is no Debian or has no lists yet."""
    fields = ("--format", "$(LABEL) $(REPO_URI)", "Origin: Debian", "Created-By: Packages")
    found = [line.split() for line in run("apt-get", "indextargets", *fields).splitlines()]
    return {line[0]: line[1] for line in reversed(found) if len(line) == _LABEL_AND_URI}


def _copy_over(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=False, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    elif source.exists():
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
