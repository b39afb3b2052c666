"""The back ends that a rig's site can have."""

from __future__ import annotations

import os
from enum import StrEnum

from tests.rig.errors import RigError

#: Chooses the back end of every rig that is not asked for another: `make compare BACKEND=docker` sets it.
VARIABLE = "RIG_BACKEND"


class SiteBackend(StrEnum):
    """Where the site's agent runs jobs."""

    #: Processes on the site's host.
    LOCAL = "local"
    #: Containers of an engine on the site's host.
    DOCKER = "docker"
    #: An HTCondor pool, whose machines are containers of an engine on the site's host.
    HTCONDOR = "htcondor"

    @property
    def has_engine(self) -> bool:
        """Whether the site's host has a Docker engine."""
        return self is not SiteBackend.LOCAL

    @property
    def images(self) -> tuple[str, ...]:
        """Our images that the engine has from the beginning; the first is what jobs run in."""
        match self:
            case SiteBackend.LOCAL:
                return ()
            case SiteBackend.DOCKER:
                return ("runtime-mini",)
            case SiteBackend.HTCONDOR:
                return ("runtime-mini", "htcondor")

    @property
    def machines(self) -> str:
        """A regular expression for what `uname -n` says in a job there."""
        # HTCondor names a container by owner, job and machine: alice-12.0-ep1.
        return r"\S+-ep[12]" if self is SiteBackend.HTCONDOR else "site"


def named(name: str | None) -> SiteBackend:
    """Return the back end of this name; None stands for the one that the environment names, or `local`.

    Raises:
        RigError: there is no such back end.
    """
    chosen = name if name is not None else os.environ.get(VARIABLE) or SiteBackend.LOCAL
    if chosen not in [*SiteBackend]:
        raise RigError(f"no rig's site has the back end {chosen}: choose {', '.join(SiteBackend)}")
    return SiteBackend(chosen)
