"""The agent's jobs as the schedd has them: one query for all of them, shared by everybody who asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from overspill_agent.backends.htcondor.ads import JobAd

Key = tuple[str, int]
Jobs = Mapping[Key, JobAd]


class Watch:
    """The last look at the queue. Nobody sees a job as it was before something that he has done to it."""

    def __init__(
        self, look: Callable[[], Awaitable[list[JobAd]]], tell: Callable[[Jobs, Jobs], None], most_age_s: float
    ) -> None:
        """Watch by `look` and `tell` of each look: the jobs before and after.

        What is older than `most_age_s` is not believed any more.
        """
        self._look = look
        self._tell = tell
        self._most_age_s = most_age_s
        self._lock = asyncio.Lock()
        self._begun_at: float | None = None
        self._touched_at: dict[str, float] = {}
        self._jobs: dict[Key, JobAd] = {}

    @property
    def jobs(self) -> Jobs:
        """As last seen, whenever that was."""
        return self._jobs

    def touch(self, run_id: str) -> None:
        """Take note that something was done about a run: what was seen of it before does not count."""
        self._touched_at[run_id] = time.monotonic()

    async def find(self, run_id: str, attempt: int) -> JobAd | None:
        """Return the attempt's job, None if there is none; looks only if what is known is too old.

        Raises:
            TransientError, AdminError: nobody can tell now.
        """
        await self.refresh(max(time.monotonic() - self._most_age_s, self._touched_at.get(run_id, 0.0)))
        return self._jobs.get((run_id, attempt))

    async def refresh(self, not_before: float | None = None) -> None:
        """Look, unless a look has begun since `not_before`; None: look.

        Raises:
            TransientError, AdminError: nobody can tell now.
        """
        wanted = time.monotonic() if not_before is None else not_before
        async with self._lock:
            if self._begun_at is not None and self._begun_at >= wanted:
                return
            begun_at = time.monotonic()
            found = await self._look()
            self._begun_at = begun_at
            before, self._jobs = self._jobs, {(job.run_id, job.attempt): job for job in found}
            self._tell(before, self._jobs)
            self._touched_at = {run_id: at for run_id, at in self._touched_at.items() if at > begun_at}
