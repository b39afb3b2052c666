"""What the agent asks of a place where runs run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from overspill_agent.runs import Resources, Seen


@dataclass(frozen=True, slots=True)
class Account:
    """A user at this site, as the password database has it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class Launch:
    """One attempt to start one run; `run_id` and `attempt` together are its fencing token.

    Attributes:
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
    resources: Resources
    script_directory: str
    directories: tuple[str, ...]
    agent_url: str
    token: str
    ca_pem: bytes


class Backend(Protocol):
    """Starts, watches and stops runners. Every verb may be repeated, and is, after each restart of the agent.

    Verbs raise `TransientError` where the same call may succeed later, `AdminError` where somebody must act first.
    """

    def capacity(self) -> Resources:
        """Return all that the backend has, used or not."""

    async def start(self, launch: Launch) -> None:
        """Start a runner. An attempt that was ever started is not started again, whether it lives or not."""

    async def stop(self, run_id: str, attempt: int) -> None:
        """Kill everything of the attempt. Nothing happens if nothing is left; `observe` tells when it is gone."""

    async def observe(self, run_id: str, attempt: int) -> Seen:
        """Tell what is left of the attempt. After GONE and NOTHING no process of it ever runs again by itself."""

    async def forget(self, run_id: str) -> None:
        """Remove what the backend keeps of a run that is GONE or NOTHING: its private files, its records."""

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Have `callback(run_id)` called, on the event loop, when a run may be seen differently; maybe too often."""

    async def close(self) -> None:
        """Let go of every runner without touching it."""
