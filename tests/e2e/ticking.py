"""A script whose output tells whether a byte of it was lost, or came twice."""

from __future__ import annotations


def ticking(lines: int, *, exit_code: int = 0) -> str:
    """Return a script that says `ready` and then so many lines, fifty in a second."""
    loop = f"for i in $(seq {lines}); do echo line $i; sleep 0.02; done"
    return f"#!/bin/bash\necho ready\n{loop}\nexit {exit_code}\n"


def ticked(lines: int) -> bytes:
    """Return all that it says."""
    return b"ready\n" + b"".join(b"line %d\n" % number for number in range(1, lines + 1))
