"""Many questions about single jobs, asked as few: a burst of job starts is one query at a time (F30)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class _Batch(Generic[_Answer]):
    slurm_job_ids: set[int] = field(default_factory=set)
    answers: asyncio.Task[Mapping[int, _Answer]] | None = None


class BatchedQuestions(Generic[_Answer]):
    """Collects questions while a query runs and asks them all with the next one.

    An answer is never older than its question, because a batch is closed before its query begins.
    """

    def __init__(self, query: Callable[[frozenset[int]], Awaitable[Mapping[int, _Answer]]]) -> None:
        self._query = query
        self._turn = asyncio.Lock()
        self._next: _Batch[_Answer] = _Batch()

    async def ask(self, slurm_job_id: int) -> _Answer | None:
        """Return what there is to say of the job; None if that is nothing.

        Raises:
            UnavailableError: if the query fails; so it does for all that asked with it.
        """
        batch = self._next
        batch.slurm_job_ids.add(slurm_job_id)
        if batch.answers is None:
            batch.answers = asyncio.create_task(self._answer(batch), name="job query")
        return (await asyncio.shield(batch.answers)).get(slurm_job_id)

    async def _answer(self, batch: _Batch[_Answer]) -> Mapping[int, _Answer]:
        async with self._turn:
            self._next = _Batch()
            return await self._query(frozenset(batch.slurm_job_ids))
