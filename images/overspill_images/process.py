"""Commands that are quiet unless they fail."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Iterator, Mapping

_TAIL_CHARACTERS = 3000
_TAIL_LINES = 40


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


def lines(*argv: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Execute a command and yield what it writes to either output, line by line.

    Raises:
        ChildProcessError: with the end of what it said.
    """
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        for line in process.stdout or ():
            tail.append(line)
            yield line
    if process.returncode != 0:
        raise ChildProcessError(f"{' '.join(argv)}: exit code {process.returncode}\n{''.join(tail)}")
