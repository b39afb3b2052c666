"""The site's slots out of the collector's. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from overspill_agent.backends.htcondor.ads import JobAd, MachineAd
from overspill_agent.capacity import Slot
from overspill_agent.runs import Resources


def slots_of(machines: Iterable[MachineAd], jobs: Iterable[JobAd], gpu_types: Iterable[str]) -> tuple[Slot, ...]:
    """Return every slot, with what would be free in it if none of this agent's jobs were there.

    Args:
        machines: as the collector has them.
        jobs: this agent's, as the schedd has them: a little newer or older than the machines.
        gpu_types: words for types, in lower case; the first that a GPU's name contains is its type.
    """
    own: dict[str, Resources] = {}
    for job in jobs:
        if job.is_hosted and job.slot:
            own[job.slot] = own.get(job.slot, Resources()) + job.holding
    known = tuple(gpu_types)
    return tuple(_slot(machine, own.get(machine.name, Resources()), known) for machine in machines)


def _slot(machine: MachineAd, own: Resources, gpu_types: tuple[str, ...]) -> Slot:
    return Slot(
        name=machine.name,
        size=machine.size,
        usable=_usable(machine, own) if machine.is_open else Resources(),
        gpu_type=next((word for word in gpu_types if word in machine.gpu_type), machine.gpu_type),
    )


def _usable(machine: MachineAd, own: Resources) -> Resources:
    """Return what is free or its own: never more than there is, however old one of the two looks is."""
    if own != Resources() and not machine.is_partitionable:
        return machine.size
    both = machine.free + own
    size = machine.size
    return Resources(min(size.cpus, both.cpus), min(size.memory_mib, both.memory_mib), min(size.gpus, both.gpus))
