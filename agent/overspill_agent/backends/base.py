"""What the agent asks of a place where runs run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from overspill.errors import UnrunnableError
from overspill_agent.capacity import Capacity
from overspill_agent.runs import Resources, Sighting


@dataclass(frozen=True, slots=True)
class Account:
    """A user at this site, as the password database has it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the site's catalogue.

    Attributes:
        name: in the catalogue.
        reference: as the container engine knows it: "overspill/runtime-base:0.1.0".
        python: absolute path, in the image, of the interpreter that runs the runner.
        may_be_pulled: the engine may fetch it from its registry if it is not there.
    """

    name: str
    reference: str
    python: str
    may_be_pulled: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run asks of a place.

    Attributes:
        resources: in one slot.
        gpu_type: of which type its GPUs must be, in lower case; empty: any.
        constraint: the features of --constraint that no image of the catalogue stands for, all of which are wanted,
            joined by "&"; empty for none.
        image: what it runs in; None where the catalogue has nothing for it.
    """

    resources: Resources
    gpu_type: str = ""
    constraint: str = ""
    image: Image | None = None


def check_features(demand: Demand, offered: frozenset[str]) -> None:
    """Refuse a feature that is not offered, where all machines of a place offer the same.

    Raises:
        UnrunnableError: says which.
    """
    for feature in filter(None, demand.constraint.split("&")):
        if feature not in offered:
            raise UnrunnableError(f"this site has no machine with the feature {feature!r}")


@dataclass(frozen=True, slots=True)
class Launch:
    """One attempt to start one run; `run_id` and `attempt` together are its fencing token.

    Attributes:
        demand: what it was accepted with.
        name: for people: "rig/1234.0": cluster, Slurm's job id, restart count.
        time_limit_s: as accepted, 0 for none: the runner enforces it, a backend only well after.
        script_directory: absolute directory of argv[0]; must be writable for the runner. This and the following are
            file system names (surrogateescape).
        directories: absolute paths that must exist for the script, empty and the user's where nothing is shared: its
            working directory and its homes.
        token: the runner's bearer token. Never logged, never stored but in the runner's own directory.
        ca_pem: the CA that the runner trusts.
    """

    run_id: str
    attempt: int
    account: Account
    demand: Demand
    name: str
    time_limit_s: int
    script_directory: str
    directories: tuple[str, ...]
    agent_url: str
    token: str
    ca_pem: bytes


class Backend(Protocol):
    """Starts, watches and stops runners. Every verb may be repeated, and is, after each restart of the agent.

    Verbs raise `TransientError` where the same call may succeed later, `AdminError` where somebody must act first. A
    verb that cannot see raises; it never takes "unknown" for "nothing there".
    """

    async def open(self) -> None:
        """Take up what is there and begin to watch. Before it no other verb is called.

        Raises:
            AdminError: nothing will ever run here as it is configured; says what to do. A peer that is down now is no
                reason to raise: its runs go on without the agent.
        """

    def capacity(self) -> Capacity:
        """Return what there is, as last seen; no slots while nothing is known."""

    async def check(self, demand: Demand) -> None:
        """Refuse what can never run here: it is asked before a run is accepted.

        Raises:
            UnrunnableError: no slot is large enough, the image is missing or has no Python, a feature is unknown; a
                sentence for the user.
            TransientError: it cannot be told now.
        """

    async def start(self, launch: Launch) -> None:
        """Start a runner, or queue it. An attempt that was ever started is not started again, whether it lives or not.

        Raises:
            UnrunnableError: it never will start here: the run ends as REJECTED.
        """

    async def stop(self, run_id: str, attempt: int) -> None:
        """Kill everything of the attempt. Nothing happens if nothing is left; `observe` tells when it is gone."""

    async def observe(self, run_id: str, attempt: int) -> Sighting:
        """Tell what is left of the attempt. After GONE and NOTHING no process of it ever runs again by itself.

        Cheap: called for each run every few seconds, and after each `on_change`.
        """

    async def forget(self, run_id: str) -> None:
        """Remove what the backend keeps of a run that is not ALIVE: its private files, its records, its containers."""

    async def run_ids(self) -> frozenset[str]:
        """Return every run of this agent's of which the backend keeps anything, known to the agent or not."""

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Have `callback(run_id)` called, on the event loop, when a run may be seen differently; maybe too often."""

    async def close(self) -> None:
        """Let go of every runner without touching it."""
