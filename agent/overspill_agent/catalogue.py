"""The site's catalogue of images: which one a run gets. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from overspill.errors import UnrunnableError
from overspill_agent.backends.base import Demand, Image
from overspill_agent.config import ImageSection
from overspill_agent.runs import Resources

#: Features all of which are wanted. Routers divert no job that asks for more than that.
_ALL_OF = re.compile(r"[\w.:-]+(?:[&,][\w.:-]+)*", re.ASCII)
#: Virtual nodes have it beside the site's own.
_VIRTUAL_NODES_FEATURE = "overspill"


class Catalogue:
    """The images that the site offers, in the order of agent.toml; none where its back end has no images."""

    def __init__(self, sections: Mapping[str, ImageSection]) -> None:
        self._sections = sections

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sections)

    @property
    def features(self) -> frozenset[str]:
        """The words of --constraint that choose an image."""
        return frozenset(feature for section in self._sections.values() for feature in section.features)

    def image(self, name: str) -> Image:
        """Return the image of this name.

        Raises:
            UnrunnableError: names those that there are.
        """
        section = self._sections.get(name)
        if section is None:
            offered = f"it offers {', '.join(self._sections)}" if self._sections else "its jobs run in no image"
            raise UnrunnableError(f"this site has no image {name!r}; {offered}")
        return Image(
            name=name,
            reference=section.reference,
            python=str(section.python),
            may_be_pulled=section.pull == "missing",
        )

    def choose(self, *, named: str, constraint: str, partition: str, resources: Resources) -> str:
        """Return the name of the image for a run; empty if the catalogue has none for it.

        What the user has named comes first, then the first word of --constraint that an image lists, then the
        partition, then the default.

        Raises:
            UnrunnableError: there is no such image, or it is not for runs as large as this one.
        """
        chosen = named or self._by_features(features_in(constraint)) or self._by_partition(partition)
        if not chosen:
            return ""
        self.image(chosen)
        if excess := _excess(self._sections[chosen], resources):
            raise UnrunnableError(f"the image {chosen} is for runs of at most {excess}; ask for less")
        return chosen

    def demand(self, resources: Resources, gpu_type: str, *, image: str, constraint: str) -> Demand:
        """Return what a run asks of the back end: its image as `choose` has named it, and what else it wants.

        Raises:
            UnrunnableError: the image has left the catalogue since.
        """
        answered = self.features | {_VIRTUAL_NODES_FEATURE}
        rest = [feature for feature in features_in(constraint) if feature not in answered]
        return Demand(resources, gpu_type, "&".join(rest), self.image(image) if image else None)

    def _by_features(self, wanted: tuple[str, ...]) -> str:
        by_feature = {feature: name for name, section in self._sections.items() for feature in section.features}
        return next((by_feature[feature] for feature in wanted if feature in by_feature), "")

    def _by_partition(self, partition: str) -> str:
        """Return the image for the jobs of a partition, else the default one."""
        of_partition = (name for name, section in self._sections.items() if partition in section.partitions)
        default = next((name for name, section in self._sections.items() if section.is_default), "")
        return next(of_partition, default)


def features_in(constraint: str) -> tuple[str, ...]:
    """Return the features that --constraint names.

    Raises:
        UnrunnableError: it says more than that all of them are wanted.
    """
    if not constraint:
        return ()
    if not _ALL_OF.fullmatch(constraint):
        raise UnrunnableError(f"--constraint={constraint} is not understood here; only features joined by & are")
    return tuple(re.split("[&,]", constraint))


def _excess(section: ImageSection, wanted: Resources) -> str:
    """Return the limit of the image that the run is over; empty if there is none."""
    limits = (
        (wanted.cpus, section.max_cpus, "CPUs"),
        (wanted.memory_mib, section.max_memory_mib, "MiB"),
        (wanted.gpus, section.max_gpus, "GPUs"),
    )
    return next((f"{most} {unit}" for asked, most, unit in limits if most is not None and asked > most), "")
