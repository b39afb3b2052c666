"""The ClusterView that runs squeue and scontrol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from overspill.errors import NotFoundError, UnavailableError, UnrunnableError
from overspill_sidecar import metrics
from overspill_sidecar.accounting import Accounting
from overspill_sidecar.cluster import ClusterConfig, Job, JobDetails, JobRequest, Node, Reservation, Snapshot
from overspill_sidecar.config import Reader, SlurmConfig
from overspill_sidecar.slurm import queries
from overspill_sidecar.slurm.assoc_mgr import accounting_argv, parse_accounting
from overspill_sidecar.slurm.batching import BatchedQuestions
from overspill_sidecar.slurm.process import checked, run
from overspill_sidecar.slurm.readers import FittingReader, PyslurmReader, QueueReader, SqueueReader, secret_end
from overspill_sidecar.slurm.shown_job import parse_shown_job, show_job_argv

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_NO_SUCH_JOB = "Invalid job id specified"
_UNREACHABLE = ("Unable to contact", "Socket timed out")
_NO_SUCH_NODE = ("Invalid node name specified", " not found")
_OVER = "Job has already finished"
#: slurmctld answers a change of partition with whatever errno its thread last had, where the user has no association:
#: a third of them on 24.11, five of six on 26.05, up to 50 in a row (seen). Another try is another chance.
_STALE_ERRORS = ("Resource temporarily unavailable", "Interrupted system call")
_ATTEMPTS = 120
#: Seconds after which there is no further one: a slurmctld that answers slowly is not to be asked 120 times.
_TRY_FOR_S = 15.0


class CommandLineView:
    """Asks slurmctld through its own commands, and for the whole queue whoever reads that. Parsing is a thread's."""

    def __init__(
        self, deadline_s: float = 10.0, accounting_refresh_s: float = 30.0, reader: QueueReader | None = None
    ) -> None:
        self._deadline_s = deadline_s
        self._reader = reader or SqueueReader(deadline_s)
        self._questions = BatchedQuestions(self._jobs)
        self._accounting_refresh_s = accounting_refresh_s
        self._known_accounting: Accounting | None = None
        self._is_federated = False
        self._known_reservations: tuple[Reservation, ...] | None = None
        self._ask_seldom_at = float("-inf")
        self._details_questions = BatchedQuestions(self._details)
        self._requesting = asyncio.Lock()

    async def snapshot(self) -> Snapshot:
        asked_at, unix_time_s = time.monotonic(), time.time()
        config = await self._ask(queries.config_argv(), queries.parse_config)
        partitions = await self._ask(queries.partitions_argv(), queries.parse_partitions)
        jobs = await self._reader.jobs(config.slurm_release)
        nodes = await self._ask(queries.nodes_argv(), queries.parse_nodes)
        if asked_at >= self._ask_seldom_at:
            await self._ask_what_changes_seldom(config)
            self._ask_seldom_at = asked_at + self._accounting_refresh_s
        return Snapshot(
            asked_at,
            unix_time_s,
            config,
            jobs,
            partitions,
            nodes,
            self._known_accounting,
            self._is_federated,
            self._reader.used,
            self._known_reservations,
        )

    async def _ask_what_changes_seldom(self, config: ClusterConfig) -> None:
        """Ask for what is not asked for with each look; what slurmctld does not tell is not known from then on.

        A limit that is reached meanwhile makes a job wait, in its own partition as well as over there.
        """
        self._known_reservations = await self._ask_or_none(
            queries.reservations_argv(), queries.parse_reservations, "reservations_unknown"
        )
        if config.has_slurmdbd:
            self._known_accounting = None
            if config.enforced:
                self._known_accounting = await self._ask_or_none(
                    accounting_argv(), parse_accounting, "accounting_unknown"
                )
            self._is_federated = await self._ask(queries.federation_argv(), lambda text: "Federation:" in text)

    async def _ask_or_none(self, argv: Sequence[str], parse: Callable[[str], _T], action: str) -> _T | None:
        try:
            return await self._ask(argv, parse)
        except UnavailableError as error:
            _log.warning("a question has no answer", action=action, reason=error.reason)
            return None

    async def close(self) -> None:
        """End what reads the queue, if that is a process. Idempotent."""
        await self._reader.close()

    async def job(self, slurm_job_id: int) -> Job | None:
        return await self._questions.ask(slurm_job_id)

    async def decisions_over(self) -> frozenset[str]:
        argv, record_end = queries.over_argv(), secret_end()
        output = await run(argv, self._deadline_s, queries.over_format(record_end))
        return await asyncio.to_thread(queries.parse_over, checked(argv, output), record_end)

    async def details(self, slurm_job_id: int) -> JobDetails:
        return await self._details_questions.ask(slurm_job_id) or JobDetails()

    async def request(self, job: Job) -> JobRequest | None:
        argv = show_job_argv(job)
        # One after the other: scontrol takes no list, and squeue, which does, cannot show all of it.
        async with self._requesting:
            output = await run(argv, self._deadline_s)
        if _NO_SUCH_JOB in output.stderr:
            return None
        return parse_shown_job(checked(argv, output), job.slurm_job_id)

    async def update(self, job: str, **fields: str) -> None:
        await self._act(queries.update_argv(job, fields))

    async def nodes(self, names: Sequence[str]) -> Mapping[str, Node]:
        argv = queries.nodes_argv(names)
        output = await run(argv, self._deadline_s)
        if any(words in output.stdout + output.stderr for words in _NO_SUCH_NODE):
            raise NotFoundError(f"Slurm does not know one of the nodes {','.join(names)}")
        return queries.parse_nodes(checked(argv, output))

    async def drain(self, names: Sequence[str], reason: str) -> None:
        await self._act(queries.node_update_argv(names, State="DRAIN", Reason=reason))

    async def undrain(self, names: Sequence[str]) -> None:
        await self._act(queries.node_update_argv(names, State="UNDRAIN"))

    async def requeue(self, job: str) -> None:
        await self._act(queries.requeue_argv(job))

    async def _jobs(self, slurm_job_ids: frozenset[int]) -> Mapping[int, Job]:
        jobs = await ask_jobs(queries.jobs_argv(slurm_job_ids), self._deadline_s)
        return {job.slurm_job_id: job for job in jobs}

    async def _details(self, slurm_job_ids: frozenset[int]) -> Mapping[int, JobDetails]:
        argv = queries.details_argv(slurm_job_ids)
        output = await run(argv, self._deadline_s)
        return {} if _NO_SUCH_JOB in output.stderr else queries.parse_details(checked(argv, output))

    async def _ask(self, argv: Sequence[str], parse: Callable[[str], _T]) -> _T:
        output = await run(argv, self._deadline_s)
        return await asyncio.to_thread(parse, checked(argv, output))

    async def _act(self, argv: Sequence[str]) -> None:
        give_up_at = time.monotonic() + _TRY_FOR_S
        for _ in range(_ATTEMPTS):
            output = await run(argv, self._deadline_s)
            if output.status == 0:
                return
            if not any(words in output.stderr for words in _STALE_ERRORS) or time.monotonic() >= give_up_at:
                break
            metrics.SLURM_RETRIES.inc()
        reason = output.stderr.strip() or f"{argv[0]} exited with {output.status}"
        if _NO_SUCH_JOB in reason or _OVER in reason or any(words in reason for words in _NO_SUCH_NODE):
            raise NotFoundError(reason)
        if any(words in reason for words in (*_UNREACHABLE, *_STALE_ERRORS)):
            raise UnavailableError(reason)
        raise UnrunnableError(reason)


def view_of(config: SlurmConfig) -> CommandLineView:
    """Return the view that the configuration asks for."""
    deadline_s = config.command_deadline_s
    squeue, pyslurm = SqueueReader(deadline_s), PyslurmReader(deadline_s)
    readers: dict[Reader, QueueReader] = {
        Reader.AUTO: FittingReader(pyslurm, squeue),
        Reader.COMMAND_LINE: squeue,
        Reader.PYSLURM: pyslurm,
    }
    return CommandLineView(deadline_s, config.accounting_refresh_s, readers[config.reader])


async def ask_jobs(argv: Sequence[str], deadline_s: float) -> tuple[Job, ...]:
    """Return the jobs that a command of `queries.jobs_argv` names, none if Slurm says that there are none of these.

    Raises:
        UnavailableError: as of `ClusterView.snapshot`.
    """
    record_end = secret_end()
    output = await run(argv, deadline_s, queries.jobs_format(record_end))
    if _NO_SUCH_JOB in output.stderr:
        return ()
    return await asyncio.to_thread(queries.parse_jobs, checked(argv, output), record_end)
