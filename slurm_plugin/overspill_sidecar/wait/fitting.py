"""Fitting trees in a process of its own, so that no decision waits for it: arrays in, arrays out."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from dataclasses import fields
from typing import BinaryIO, TypeVar

import numpy as np

from overspill.errors import UnavailableError
from overspill_sidecar.subprocesses import run_raw
from overspill_sidecar.wait import trees
from overspill_sidecar.wait.forest import Forest
from overspill_sidecar.wait.samples import TrainingSet

#: Many times what a fit takes: some seconds.
_DEADLINE_S = 300.0
_MODULE = "overspill_sidecar.wait.fitting"
#: Decisions come first.
_NICENESS = 19

_T = TypeVar("_T", Forest, TrainingSet)


async def fit_apart(training: TrainingSet, deadline_s: float = _DEADLINE_S) -> Forest:
    """Return the trees that a process of its own has fitted. Cancelling this ends that process.

    Raises:
        UnavailableError: if it did not end well, or in time; what it said is in the reason.
    """
    source = await asyncio.to_thread(_packed, training)
    output = await run_raw((sys.executable, "-m", _MODULE), deadline_s, source)
    if output.status != 0:
        said = output.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing"]
        raise UnavailableError(f"fitting trees failed with {output.status}: {said[0]}")
    return _unpacked(output.stdout, Forest)


def main(source: BinaryIO, target: BinaryIO) -> None:
    """Fit trees to the training set on `source` and write them to `target`."""
    training = _unpacked(source.read(), TrainingSet)
    target.write(_packed(trees.fit(training)))


def _packed(value: Forest | TrainingSet) -> bytes:
    file = io.BytesIO()
    np.savez(
        file, allow_pickle=False, **{field.name: np.asarray(getattr(value, field.name)) for field in fields(value)}
    )
    return file.getvalue()


def _unpacked(data: bytes, kind: type[_T]) -> _T:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        values = {field.name: arrays[field.name] for field in fields(kind)}
    return kind(**values)


if __name__ == "__main__":
    os.nice(_NICENESS)
    main(sys.stdin.buffer, sys.stdout.buffer)
