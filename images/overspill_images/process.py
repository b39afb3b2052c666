"""Commands that are quiet unless they fail."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

_TAIL_CHARACTERS = 3000


def run(*argv: str, env: Mapping[str, str] | None = None) -> str:
    """Execute a command and return what it wrote to its standard output.

    Raises:
        ChildProcessError: with the end of what it said.
    """
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-_TAIL_CHARACTERS:]
        raise ChildProcessError(f"{' '.join(argv)}: exit code {done.returncode}\n{said}")
    return done.stdout
