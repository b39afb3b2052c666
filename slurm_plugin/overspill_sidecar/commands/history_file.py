"""Histories of jobs as admins have them: files of three kinds, compressed or not, a pipe, or sacct itself."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from overspill.errors import InvalidRequestError, UnavailableError
from overspill_sidecar.history import (
    PastJob,
    processors_of_swf,
    read_completion_log,
    read_sacct,
    read_swf,
    sacct_argv,
)

_GZIP_MAGIC = b"\x1f\x8b"
STDIN = Path("-")


class Kind(StrEnum):
    """Who wrote the history."""

    SACCT = "sacct"
    SWF = "swf"
    JOBCOMP = "jobcomp"


@dataclass(frozen=True, slots=True)
class History:
    """What a file tells.

    Attributes:
        name: of the file, for a person.
        total_cpus: of the cluster; None if the file does not say so.
        bad_lines: how many could not be read.
    """

    name: str
    jobs: tuple[PastJob, ...]
    total_cpus: int | None
    bad_lines: int


_READERS: dict[Kind, Callable[..., Iterator[PastJob]]] = {
    Kind.SACCT: read_sacct,
    Kind.SWF: read_swf,
    Kind.JOBCOMP: read_completion_log,
}


def read_history(kind: Kind, path: Path, *, is_lenient: bool) -> History:
    """Read a file; `-` is standard input. Lines that cannot be read are passed over if `is_lenient`.

    Raises:
        InvalidRequestError: if the file, or one of its lines, is not what it should be; with the line's number.
    """
    name = "standard input" if path == STDIN else str(path)
    try:
        with _lines(path) as lines:
            return _read(kind, name, lines, is_lenient=is_lenient)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InvalidRequestError(f"{name} cannot be read: {error.strerror}") from error
        # A file that is no longer what gzip wrote: the last two and BadGzipFile, an OSError without a number.
        raise InvalidRequestError(f"{name} cannot be read to its end: {error}") from error


def ask_sacct(since: str, *, is_lenient: bool) -> History:
    """Read what sacct of this host tells of all jobs since then.

    Raises:
        UnavailableError: if there is no sacct, or if it fails.
    """
    argv = sacct_argv(since)
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise UnavailableError(f"sacct: {error.strerror}; name a FILE that it wrote elsewhere") from error
    if done.returncode != 0:
        raise UnavailableError(f"sacct failed: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return _read(Kind.SACCT, f"sacct since {since}", iter(done.stdout.splitlines()), is_lenient=is_lenient)


def _read(kind: Kind, name: str, lines: Iterator[str], *, is_lenient: bool) -> History:
    bad: list[int] = []
    head = list(_head(lines)) if kind is Kind.SWF else []
    take_note = (lambda number, _: bad.append(number)) if is_lenient else None
    try:
        jobs = tuple(_READERS[kind](itertools.chain(head, lines), take_note))
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{name}: {error.reason}") from error
    return History(name, jobs, processors_of_swf(head), len(bad))


def _head(lines: Iterable[str]) -> Iterator[str]:
    """Yield the comments at the beginning, and the line after them."""
    for line in lines:
        yield line
        if not line.startswith(";"):
            return


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    with _binary(path) as file:
        is_compressed = file.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
        opened: gzip.GzipFile | io.BufferedReader = gzip.GzipFile(fileobj=file) if is_compressed else file
        with io.TextIOWrapper(opened, encoding="utf-8", errors="replace") as text:
            yield text


def _binary(path: Path) -> io.BufferedReader:
    return io.BufferedReader(io.FileIO(sys.stdin.fileno() if path == STDIN else path, closefd=path != STDIN))
