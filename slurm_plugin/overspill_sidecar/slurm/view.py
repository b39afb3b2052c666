"""What the sidecar wants of Slurm, however it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from overspill_sidecar.cluster import Job, JobDetails, JobRequest, Node, Snapshot


class ClusterView(Protocol):
    """Slurm as seen from the sidecar.

    A question that fails raises and is never an empty answer: "no jobs" is something only Slurm may say (F6).
    """

    async def snapshot(self) -> Snapshot:
        """Return the whole cluster's state. One query of each kind, whatever the number of jobs.

        Nodes are asked for after jobs: what a job that shows as running has is then taken from its nodes, and no slot
        that it has looks free. One that starts or ends in between looks larger than it is, which does no harm.

        Raises:
            UnavailableError: if Slurm did not answer, or not intelligibly; ask again later.
        """
        ...

    async def job(self, slurm_job_id: int) -> Job | None:
        """Return one job or array task, by its own id; None if Slurm says that there is none.

        Raises:
            UnavailableError: as for `snapshot`.
        """
        ...

    async def decisions_over(self) -> frozenset[str]:
        """Return the ids of the decisions whose jobs are over, as long as slurmctld remembers these (MinJobAge).

        Raises:
            UnavailableError: as for `snapshot`.
        """
        ...

    async def details(self, slurm_job_id: int) -> JobDetails:
        """Return what a job asks for beside its `Job`: nothing where Slurm knows of none, or of nothing it can tell.

        Raises:
            UnavailableError: as for `snapshot`.
        """
        ...

    async def request(self, job: Job) -> JobRequest | None:
        """Return what a pending job asks for; None if it is gone, or what Slurm tells of it could be made up.

        One question to slurmctld for each job: for the few that it matters for.

        Raises:
            UnavailableError: as for `snapshot`.
        """
        ...

    async def update(self, job: str, **fields: str) -> None:
        """Change fields of a job, named as in scontrol(1). Repeating it does no harm.

        Args:
            job: `Job.name`.
            fields: what to set.

        Raises:
            NotFoundError: if there is no such job, or it is over.
            UnrunnableError: if Slurm refuses; its words are the reason.
            UnavailableError: as for `snapshot`.
        """
        ...

    async def nodes(self, names: Sequence[str]) -> Mapping[str, Node]:
        """Return these nodes as they are now.

        Raises:
            NotFoundError: if Slurm does not know one of them.
            UnavailableError: as for `snapshot`.
        """
        ...

    async def drain(self, names: Sequence[str], reason: str) -> None:
        """Have no more jobs start on these nodes; those that run there go on. Replaces the reason of a drained node.

        Raises:
            NotFoundError: if Slurm does not know one of them.
            UnrunnableError, UnavailableError: as for `update`.
        """
        ...

    async def undrain(self, names: Sequence[str]) -> None:
        """Undo `drain`, whoever did it. A node that is down stays down.

        Slurm takes a moment: it asks the node whether it is there before it starts a job on it.

        Raises:
            NotFoundError, UnrunnableError, UnavailableError: as for `drain`.
        """
        ...

    async def requeue(self, job: str) -> None:
        """End a started job's processes and put it back into the queue. Not idempotent: each call ends one attempt.

        A job that is pending, cancelled or over at that moment is left alone, without an error.

        Args:
            job: `Job.name`.

        Raises:
            NotFoundError, UnrunnableError, UnavailableError: as for `update`.
        """
        ...
