"""Which of this host's GPUs each run has.

A run's are written beside its lock (`attempt-N.gpus`) before it starts, and are its own for as long as that attempt
lives: so a restarted agent knows, and what a crash has left over takes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from overspill.errors import ExhaustedError
from overspill_agent.backends import attempt as attempts
from overspill_agent.runs import Seen

_SUFFIX = ".gpus"


@dataclass(frozen=True, slots=True)
class Gpus:
    """This host's GPUs.

    Attributes:
        ids: as CUDA_VISIBLE_DEVICES names them: "0", or "GPU-5ebe9f43".
        gpu_type: of which type they are, all of them; in lower case, empty: not told.
        files: device files that whoever has GPUs needs; `{id}` in one stands for the id of each GPU that it has.
    """

    ids: tuple[str, ...] = ()
    gpu_type: str = ""
    files: tuple[str, ...] = ()

    def files_of(self, own: Iterable[str]) -> list[str]:
        """Return the device files that a run with these GPUs sees."""
        own = list(own)
        return list(dict.fromkeys(file.replace("{id}", gpu) for file in self.files for gpu in own))


class Devices:
    """Gives GPUs to attempts."""

    def __init__(self, runs: Path, gpus: Gpus) -> None:
        """Take up what the attempts below the directory `runs` have."""
        self._runs = runs
        self._gpus = gpus
        self._giving = threading.Lock()

    def give(self, run_directory: Path, attempt: int, count: int) -> tuple[str, ...]:
        """Give an attempt its GPUs for as long as its lock is held, which the caller does until its processes do.

        Raises:
            ExhaustedError: fewer are free.
        """
        if not count:
            return ()
        with self._giving:
            own_file = attempts.lock_path(run_directory, attempt).with_suffix(_SUFFIX)
            taken = set(self._taken_by_others(own_file))
            free = [gpu for gpu in self._gpus.ids if gpu not in taken]
            if len(free) < count:
                raise ExhaustedError(f"{count} GPUs are wanted and {len(free)} are free")
            own = tuple(free[:count])
            own_file.write_text("\n".join(own), encoding="ascii")
        return own

    def _taken_by_others(self, own_file: Path) -> Iterator[str]:
        for file in self._runs.glob(f"*/attempt-*{_SUFFIX}"):
            if file != own_file and attempts.seen(file.with_suffix(".lock")) is Seen.ALIVE:
                yield from file.read_text(encoding="ascii").splitlines()
