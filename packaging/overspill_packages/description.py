"""`packages.toml`: what is in each package."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Format(StrEnum):
    DEB = "deb"
    RPM = "rpm"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Table):
    """A file, or a directory with all that is in it.

    Attributes:
        source: relative to the checkout, or to the build's own files after `build:`.
        target: absolute; with facts to be filled in, as in all of a package's words.
        is_configuration: the admin's: an upgrade never replaces what was edited.
        only: the one format that has it.
    """

    source: str = Field(alias="from")
    target: str = Field(alias="to", pattern="^/")
    is_configuration: bool = False
    only: Literal["deb", "rpm"] | None = None


class Directory(_Table):
    path: str = Field(pattern="^/")
    mode: str


class Words(_Table):
    """Names of packages, for each format in its own syntax."""

    deb: tuple[str, ...] = ()
    rpm: tuple[str, ...] = ()


class Package(_Table):
    """One package.

    Attributes:
        license: its own, None: that of all.
        units: systemd units, of which a template is never started by us.
        purge: directories whose content goes when the package is purged (.deb) or never (.rpm knows no purging).
    """

    name: str
    summary: str = Field(max_length=70)
    description: str
    license: str | None = None
    depends: Words = Words()
    recommends: Words = Words()
    units: tuple[str, ...] = ()
    directories: tuple[Directory, ...] = ()
    purge: tuple[str, ...] = ()
    files: tuple[File, ...]

    def files_of(self, package_format: Format) -> list[File]:
        return [file for file in self.files if file.only in {None, package_format.value}]

    @property
    def services(self) -> list[str]:
        """The units that can be restarted by name."""
        return [unit for unit in self.units if "@." not in unit]

    @property
    def templates(self) -> list[str]:
        return [unit for unit in self.units if "@." in unit]


class Common(_Table):
    maintainer: str
    license: str


class Description(_Table):
    common: Common
    package: tuple[Package, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is found out on the machine that builds.

    Attributes:
        version: of Overspill.
        epoch_s: SOURCE_DATE_EPOCH: the time that every file in a package has.
        python: minor version of the interpreter that the environment is for: "3.11".
        slurm: release of the headers that the plugin is built with: "22.05".
        slurm_next: the first number that no version of this release has: "22.06".
        architecture: as dpkg names it: "amd64".
    """

    #: Of the packaging, in both formats.
    REVISION: ClassVar[int] = 1

    version: str
    epoch_s: int
    python: str
    slurm: str
    slurm_next: str
    architecture: str

    def fill(self, text: str) -> str:
        return text.format(python=self.python, slurm=self.slurm, slurm_next=self.slurm_next, version=self.version)


def load(path: Path) -> Description:
    return Description.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
