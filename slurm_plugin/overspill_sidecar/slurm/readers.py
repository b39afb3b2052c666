"""Who reads the queue: squeue, pyslurm, or the one of them that fits."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from overspill.errors import ConfigError, UnavailableError
from overspill_sidecar import metrics
from overspill_sidecar.cluster import ENDED_STATES, Job
from overspill_sidecar.slurm import queries
from overspill_sidecar.slurm.process import checked, environment, run
from overspill_sidecar.subprocesses import end

_log = structlog.get_logger(__name__)

#: Isolated: nothing but what is installed is imported.
PYSLURM_ARGV = (sys.executable, "-I", str(Path(__file__).with_name("pyslurm_process.py")))
_COMMAND_LINE, _PYSLURM = "command-line", "pyslurm"
#: How long pyslurm rests after it has failed where squeue did not.
_REST_S = 300.0
#: What `scontrol --version` says: "slurm 26.05.5", "slurm-wlm 22.05.8" (Debian).
_RELEASE = re.compile(r"slurm\S* (\d+\.\d+)\.\S+")
_MOST_WORDS = 300


class QueueReader(Protocol):
    """Tells all jobs that are not over."""

    @property
    def used(self) -> str:
        """Which reader it is, and why not the other: "command-line (pyslurm is not installed)"."""
        ...

    async def jobs(self, release: str) -> tuple[Job, ...]:
        """Return the jobs that are not over, asked now.

        Args:
            release: slurmctld's: "24.11".

        Raises:
            UnavailableError: as of `ClusterView.snapshot`.
            ConfigError: if this reader cannot read this Slurm.
        """
        ...

    async def close(self) -> None:
        """End what it has started. Idempotent."""
        ...


class _Known:
    """The records of the last answer with the jobs that they are: most are the same in the next."""

    def __init__(self) -> None:
        self._jobs: Mapping[str, Job] = {}

    async def read(self, text: str, record_end: str) -> tuple[Job, ...]:
        self._jobs = await asyncio.to_thread(queries.parse_records, text, record_end, self._jobs)
        return tuple(self._jobs.values())


class SqueueReader:
    """Runs squeue, which any Slurm has."""

    used = _COMMAND_LINE

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._known = _Known()

    async def jobs(self, release: str) -> tuple[Job, ...]:  # noqa: ARG002 - squeue is of the same Slurm
        argv, record_end = queries.jobs_argv(), secret_end()
        output = await run(argv, self._deadline_s, queries.jobs_format(record_end))
        return await self._known.read(checked(argv, output), record_end)

    async def close(self) -> None:
        return


class PyslurmReader:
    """Asks a process that has pyslurm; starts it at need, again after each failure, and ends it at the deadline.

    A new process reads slurm.conf anew, and finds the library that is installed now.
    """

    used = _PYSLURM

    def __init__(self, deadline_s: float, argv: Sequence[str] = PYSLURM_ARGV) -> None:
        self._deadline_s = deadline_s
        self._argv = argv
        self._known = _Known()
        self._process: asyncio.subprocess.Process | None = None
        self._release = ""
        self._last_words: asyncio.Task[str] | None = None

    async def jobs(self, release: str) -> tuple[Job, ...]:
        record_end = secret_end()
        question = {
            "fields": queries.JOB_FIELDS,
            "field_end": queries.FIELD_END,
            "record_end": record_end,
            "left_out": sorted(ENDED_STATES),
        }
        try:
            async with asyncio.timeout(self._deadline_s):
                process = await self._started(release)
                text = await _ask(process, json.dumps(question))
        except TimeoutError:
            raise await self._failure(f"no answer within {self._deadline_s:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError, _FailedError) as error:
            raise await self._failure(str(error) if isinstance(error, _FailedError) else "") from None
        except BaseException:
            await self.close()
            raise
        return await self._known.read(text, record_end)

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await end(process)

    async def _started(self, release: str) -> asyncio.subprocess.Process:
        """Return the process, which runs and has said that it is for this release.

        Raises:
            ConfigError: if there is no pyslurm, or not one for the Slurm that is installed, or that slurmctld is.
        """
        if self._process is not None and self._process.returncode is None and self._release == release:
            return self._process
        await self.close()
        pipe = asyncio.subprocess.PIPE
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(), start_new_session=True
            )
        except OSError as error:
            raise ConfigError(f"cannot run {self._argv[0]}: {error.strerror}") from error
        self._last_words = asyncio.create_task(_last_words(self._process), name="pyslurm's words")
        try:
            versions = json.loads(await _answer(self._process, "ready"))
        except _FailedError as error:
            await self.close()
            raise ConfigError(f"pyslurm cannot be used: {error}") from None
        argv = ["scontrol", "--version"]
        installed = checked(argv, await run(argv, self._deadline_s)).strip()
        if (found := _RELEASE.fullmatch(installed)) is None or found[1] != versions["slurm"]:
            await self.close()
            raise ConfigError(f"pyslurm is built for Slurm {versions['slurm']}, installed is {installed[:80]}")
        if versions["slurm"] != release:
            await self.close()
            raise ConfigError(f"pyslurm is built for Slurm {versions['slurm']}, slurmctld is {release}")
        self._release = release
        return self._process

    async def _failure(self, reason: str) -> UnavailableError:
        """End the process and return what to raise, with its last words: libslurm says more than it returns."""
        metrics.SLURM_FAILURES.labels(_PYSLURM).inc()
        process = self._process
        await self.close()
        words = await self._last_words if self._last_words is not None else ""
        if not reason and process is not None:
            reason = f"its process ended with {process.returncode}"
        return UnavailableError(f"pyslurm: {reason}{': ' if words else ''}{words}")


class FittingReader:
    """Asks pyslurm where it fits, and squeue elsewhere.

    Where pyslurm fails squeue is asked at once. If squeue fails as well, it is Slurm's fault; if not, pyslurm rests.
    """

    def __init__(self, pyslurm: QueueReader, squeue: QueueReader) -> None:
        self._pyslurm = pyslurm
        self._squeue = squeue
        self._rests_until = float("-inf")
        self.used = ""

    async def jobs(self, release: str) -> tuple[Job, ...]:
        if time.monotonic() < self._rests_until:
            return await self._squeue.jobs(release)
        try:
            jobs = await self._pyslurm.jobs(release)
        except (ConfigError, UnavailableError) as error:
            jobs = await self._squeue.jobs(release)
            self._rests_until = time.monotonic() + _REST_S
            self._use(f"{_COMMAND_LINE} ({error.reason})")
        else:
            self._use(_PYSLURM)
        return jobs

    async def close(self) -> None:
        await self._pyslurm.close()
        await self._squeue.close()

    def _use(self, used: str) -> None:
        if used != self.used:
            _log.info("queue is read", action="queue_reader", reader=used)
        self.used = used


def secret_end() -> str:
    """Return what ends a record of one answer, which nobody can have written into a job before it is asked for."""
    return f"\x1e{secrets.token_hex(8)}"


class _FailedError(Exception):
    """The process said why there is no answer."""


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """Read its standard error to the end, so that it never waits for a reader, and return the last of it."""
    assert process.stderr is not None  # noqa: S101 - for mypy; it was made with one
    words = b""
    while chunk := await process.stderr.read(4096):
        words = (words + chunk)[-_MOST_WORDS:]
    return words.decode("utf-8", "replace").strip()


async def _ask(process: asyncio.subprocess.Process, question: str) -> str:
    assert process.stdin is not None  # noqa: S101 - for mypy; it was made with one
    process.stdin.write(f"{question}\n".encode())
    await process.stdin.drain()
    return (await _answer(process, "ok")).decode("utf-8", "replace")


async def _answer(process: asyncio.subprocess.Process, wanted: str) -> bytes:
    """Return the body of the next answer.

    Raises:
        IncompleteReadError: if the process ends instead.
        _FailedError: if it says that it has none.
    """
    assert process.stdout is not None  # noqa: S101 - for mypy; it was made with one
    word, size = (await process.stdout.readuntil(b"\n")).decode().split()
    body = await process.stdout.readexactly(int(size))
    if word != wanted:
        raise _FailedError(body.decode("utf-8", "replace"))
    return body
