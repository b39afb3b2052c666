"""Which images of the catalogue can run jobs here, as the back end says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from overspill.errors import TransientError, UnrunnableError
from overspill_agent.backends.base import Backend
from overspill_agent.catalogue import Catalogue
from overspill_agent.config import AgentConfig
from overspill_agent.runs import Resources

#: No slot is too small for it.
_SMALLEST = Resources(cpus=1)


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a run would be taken in an image; None where that cannot be told now. `reason` says why not."""

    is_present: bool | None
    reason: str = ""

    @property
    def in_words(self) -> str:
        if self.is_present:
            return "present"
        return f"{'unknown' if self.is_present is None else 'missing'}: {self.reason}"


async def presences(config: AgentConfig, backend: Backend) -> Mapping[str, Presence]:
    """Return the presence of each image, by its name. Opens the back end and closes it; touches no run.

    Raises:
        AdminError: the back end can never work as it is configured.
    """
    catalogue = Catalogue(config.images)
    await backend.open()
    try:
        return {name: await _presence(backend, catalogue, name) for name in catalogue.names}
    finally:
        await backend.close()


async def _presence(backend: Backend, catalogue: Catalogue, name: str) -> Presence:
    try:
        await backend.check(catalogue.demand(_SMALLEST, "", image=name, constraint=""))
    except UnrunnableError as error:
        return Presence(is_present=False, reason=error.reason)
    except TransientError as error:
        return Presence(is_present=None, reason=error.reason)
    return Presence(is_present=True)
