"""What the suite needs to know of a back end, and has to be able to do to the place behind it."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from overspill.states import Outcome
from overspill_agent.backends.base import Account, Backend, Image
from overspill_agent.runs import Seen

#: In the environment of every script: whoever has it there is a process of that run.
MARK = "OVERSPILL_CONFORMANCE_RUN"


@dataclass(frozen=True, slots=True)
class Expectations:
    """In what back ends may differ.

    Attributes:
        gpus: how many GPUs it has, or simulates; 0: a run that asks for one is refused before it is accepted.
        most_cpus_for_one: so many CPUs' worth can a run get that asks for one.
        own_memory: how a run ends whose script itself, a single process, takes more memory than it asked for.
        childs_memory: likewise where only a child does, which the script outlives, and the script then ends with 0.
        lost: what a run is seen as once its machine is lost.
    """

    gpus: int = 0
    most_cpus_for_one: float = 1.0
    own_memory: Outcome = Outcome.OUT_OF_MEMORY
    childs_memory: Outcome = Outcome.COMPLETED
    lost: Seen = Seen.GONE


class Death(Protocol):
    """The end of an agent in the middle of something; `has_come` tells whether it lived to take that step."""

    has_come: bool


class Place(Protocol):
    """Where a back end's runs run.

    Attributes:
        account: whose runs they are.
        listen: address on which this process, the agent, is to serve runners.
        agent_host: by which name or address runs reach it; it is put into the agent's certificate.
        image: in which runs are; None where there are no images.
        unknown_image: one that this place does not have.
        expects: see `Expectations`.
    """

    account: Account
    listen: str
    agent_host: str
    image: Image | None
    unknown_image: Image
    expects: Expectations

    def backend(self) -> Backend:
        """Return a new back end, as a restarted agent makes one; not open yet."""

    def dying_at(self, step: int) -> AbstractContextManager[Death]:
        """Have the agent die at its step number `step`, from 1: what it does within raises `DeathError` there.

        A step is whatever the back end does that is seen outside the agent: a file made, a request sent, a process
        started. From then on every step raises it: the dead do nothing more.
        """

    def processes(self, run_id: str) -> int:
        """Return how many processes of the run's script live, wherever they are, parents and orphans alike."""

    async def lose_machine(self) -> None:
        """Have the machine die on which the runs are, as of a power cut: nothing is told, nothing is cleaned up."""

    async def regain_machine(self) -> None:
        """Have it come back, as after a reboot."""

    def out_of_sight(self) -> AbstractAsyncContextManager[None]:
        """Take from the back end what it sees its runs by, and give it back; the runs go on."""

    async def leftovers(self) -> list[str]:
        """Name everything that is left of any run: files, containers, jobs, cgroups; empty when nothing is."""


class DeathError(BaseException):
    """The agent is dead from here on. No Exception: nobody may catch it and go on."""


def marked_processes(run_id: str) -> int:
    """Return how many processes of this kernel, in whatever namespaces, have the run's mark in their environment."""
    wanted = f"{MARK}={run_id}".encode()
    return sum(wanted in _environment(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _environment(process: Path) -> list[bytes]:
    """Return what a process was started with; nothing if it is gone or a zombie."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
    except PermissionError:
        if os.geteuid() == 0:
            return []  # the kernel's own
        raise
