"""Running a program to its end: argv and bytes in, bytes out, within a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overspill.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class RawOutput:
    status: int
    stdout: bytes
    stderr: bytes


async def run_raw(
    argv: Sequence[str], deadline_s: float, source: bytes = b"", env: Mapping[str, str] | None = None
) -> RawOutput:
    """Run `argv` to its end with `source` on its standard input. Cancelling this ends it and all that it has started.

    Args:
        argv: what to run.
        deadline_s: seconds after which it is killed.
        source: may be large; one that does not read it all does no harm.
        env: its environment; None is ours.

    Raises:
        UnavailableError: if it cannot be started or does not end in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if source else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise UnavailableError(f"cannot run {argv[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline_s):
            stdout, stderr = await process.communicate(source or None)
    except TimeoutError:
        raise UnavailableError(f"{argv[0]} gave no answer within {deadline_s:g} s") from None
    finally:
        await end(process)
    return RawOutput(process.returncode or 0, stdout, stderr)


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that leads a group, with the group: what it has started holds our pipes, too."""
    if process.returncode is None:
        # It may have ended by itself meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
