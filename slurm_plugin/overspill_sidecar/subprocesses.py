"""Running a program to its end: argv and bytes in, bytes out, within a deadline."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from overspill.errors import UnavailableError
from overspill_sidecar import spawning

#: A queue of 10,000 jobs is some megabytes.
_READ_BYTES = 2**20


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
        program = _start(argv, source, os.environ if env is None else env)
    except OSError as error:
        raise UnavailableError(f"cannot run {argv[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline_s):
            stdout, stderr = await asyncio.gather(_read(program.stdout), _read(program.stderr))
            status = await program.wait()
    except TimeoutError:
        raise UnavailableError(f"{argv[0]} gave no answer within {deadline_s:g} s") from None
    finally:
        await program.end()
    return RawOutput(status, stdout, stderr)


class _Program:
    """One that runs and leads a group."""

    def __init__(self, process_id: int, stdout: FileIO, stderr: FileIO) -> None:
        self._process_id = process_id
        self.stdout = stdout
        self.stderr = stderr
        self._ending: asyncio.Future[tuple[int, int]] | None = None

    async def wait(self) -> int:
        """Wait for its end and return its exit code, or less the number of the signal that ended it."""
        if self._ending is None:
            # In a thread, so to be called when its end is near: it has closed its output, or been killed.
            self._ending = asyncio.ensure_future(asyncio.to_thread(os.waitpid, self._process_id, 0))
        _, status = await asyncio.shield(self._ending)
        return os.waitstatus_to_exitcode(status)

    async def end(self) -> None:
        """End it with its group: what it has started holds our pipes, too."""
        if self._ending is None or not self._ending.done():
            _kill_group(self._process_id)
            await self.wait()
        self.stdout.close()
        self.stderr.close()


def _start(argv: Sequence[str], source: bytes, env: Mapping[str, str]) -> _Program:
    with ExitStack() as ours, ExitStack() as its:
        stdin = its.enter_context(_readable(source))
        (stdout, its_stdout), (stderr, its_stderr) = _pipe(ours, its), _pipe(ours, its)
        process_id = spawning.start(argv, env, [stdin.fileno(), its_stdout.fileno(), its_stderr.fileno()])
        ours.pop_all()
        return _Program(process_id, stdout, stderr)


def _pipe(ours: ExitStack, its: ExitStack) -> tuple[FileIO, FileIO]:
    reading, writing = os.pipe()
    return ours.enter_context(FileIO(reading, "rb")), its.enter_context(FileIO(writing, "wb"))


async def _read(pipe: FileIO) -> bytes:
    """Read to the end, and close it."""
    reader = asyncio.StreamReader(limit=_READ_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.read()
    finally:
        transport.close()


def _readable(source: bytes) -> BinaryIO:
    """Return a file that holds `source`; it need not be read to its end."""
    if not source:
        return Path(os.devnull).open("rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(source)
    file.seek(0)
    return file


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that leads a group, with the group: what it has started holds our pipes, too."""
    if process.returncode is None:
        _kill_group(process.pid)
        await process.wait()


def _kill_group(leader: int) -> None:
    # It may have ended by itself meanwhile.
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
