"""The operator's word that no new run is to come. A file in the state directory, so that it outlives restarts."""

from __future__ import annotations

import contextlib
from pathlib import Path

from overspill.certificates import write_file
from overspill.errors import AdminError

#: What clusters are shown of a reason; it ends up in `sinfo -R` there.
_MOST_CHARACTERS = 100


class Drain:
    """Whether the site is drained, and why. The command line sets it, the agent reads it whenever it is asked."""

    def __init__(self, state_directory: Path) -> None:
        self._path = state_directory / "drained"

    @property
    def reason(self) -> str:
        """Why no new run is taken; empty if runs are. A file that cannot be read counts as a drain."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"cannot read {self._path}: {error.strerror}"
        return _one_line(text) or "drained by its operator"

    def begin(self, reason: str) -> None:
        """Take no new runs from now on.

        Raises:
            AdminError: it cannot be written down.
        """
        try:
            write_file(self._path, f"{_one_line(reason)}\n".encode())
        except OSError as error:
            raise AdminError(f"cannot write {self._path}: {error.strerror}") from error

    def end(self) -> None:
        """Take new runs again.

        Raises:
            AdminError: the file cannot be removed.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        except OSError as error:
            raise AdminError(f"cannot remove {self._path}: {error.strerror}") from error


def _one_line(text: str) -> str:
    return "".join(char for char in " ".join(text.split()) if char.isprintable())[:_MOST_CHARACTERS]
