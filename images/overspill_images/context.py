"""What `docker build` is given: a directory with the image's few files, arguments and labels."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from overspill import __version__
from overspill_images.recipe import IMAGES, Recipe

_OCI = "org.opencontainers.image"
#: The machine's settings of apt that also hold for a build; no proxy's password is among them.
_APT_SETTINGS = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::Retries")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def write(made: Recipe, directory: Path, ca: Path | None) -> None:
    """Write the files that the Dockerfile of `made` may copy, and it, into `directory`.

    Raises:
        ValueError: if `ca` holds no certificates.
    """
    directory.mkdir(exist_ok=True)
    for name, path in made.files.items():
        shutil.copy2(path, directory / name)
    certificates = directory / "ca"
    certificates.mkdir()
    for number, pem in enumerate(split_certificates(ca) if ca else [], start=1):
        (certificates / f"overspill-{number:03}.crt").write_bytes(pem)


def split_certificates(bundle: Path) -> list[bytes]:
    """Return each of the certificates in a PEM file: update-ca-certificates wants one per file.

    Raises:
        ValueError: if there is none.
    """
    try:
        found = x509.load_pem_x509_certificates(bundle.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"CA={bundle}: no certificates in PEM form: {error}") from error
    return [certificate.public_bytes(Encoding.PEM) for certificate in found]


def labels(made: Recipe, base_name: str, now: datetime) -> dict[str, str]:
    """Return the labels that only a build knows; the Dockerfile has title and description.

    Source: https://github.com/opencontainers/image-spec/blob/main/annotations.md
    """
    return {
        f"{_OCI}.version": __version__,
        f"{_OCI}.created": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        f"{_OCI}.revision": _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown",
        f"{_OCI}.source": _without_password(_git("remote", "get-url", "origin")) or f"overspill:images/{made.name}",
        f"{_OCI}.base.name": base_name,
    }


def arguments(reference: str) -> dict[str, str]:
    """Return the build arguments: what it is made from, and how apt reaches its sources from here."""
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    return {"BASE": reference, "APT_OPTIONS": _apt_options(), **proxies}


def build_time() -> datetime:
    """Return what is to be called the time of the build: SOURCE_DATE_EPOCH, if it is set, else now."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)


def options(option: str, values: Mapping[str, str]) -> list[str]:
    """Return `--OPTION NAME=VALUE` for each."""
    return [word for name, value in values.items() for word in (f"--{option}", f"{name}={value}")]


def _apt_options() -> str:
    said = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    settings = dict(line.rstrip(";").split(" ", 1) for line in said.splitlines() if " " in line)
    return " ".join(f"-o {name}={settings[name].strip(chr(34))}" for name in _APT_SETTINGS if name in settings)


def _git(*argv: str) -> str:
    """Return what git says of the checkout, nothing if it is none."""
    done = subprocess.run(["git", "-C", str(IMAGES), *argv], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.scheme else url
