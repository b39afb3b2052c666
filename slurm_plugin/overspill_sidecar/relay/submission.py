"""From a proxy's opening and Slurm's word to what the agent is asked to run. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from overspill.errors import NotPermittedError
from overspill.request_id import RequestId
from overspill.v1 import agent_pb2
from overspill_sidecar.cluster import Job, JobDetails, Snapshot
from overspill_sidecar.config import SiteConfig
from overspill_sidecar.relay.connection import Hello, Payload

_UNLIMITED = 2**64 - 1
#: How slurmstepd shows our options to a job (seen on 22.05, 24.11, 26.05).
_OPTION = b"SLURM_SPANK__SLURM_SPANK_OPTION_overspill_overspill"


class OlderAttemptError(NotPermittedError):
    """The proxy is of an attempt that Slurm has ended and requeued: it is dying, and its run is to end."""


def check_is_ours(job: Job | None, user_id: int, hello: Hello, site: SiteConfig | None, snapshot: Snapshot) -> None:
    """Check that a proxy with `user_id` is the job, and the attempt of it, that it says it is.

    Raises:
        OlderAttemptError: if it is an attempt that is over.
        NotPermittedError: if it is not; the reason is for the log, a stranger is told nothing.
    """
    if job is None:
        raise NotPermittedError("there is no such job")
    if job.user_id != user_id:
        raise NotPermittedError(f"the job is user {job.user_id}'s")
    if hello.restart_count < job.restart_count:
        raise OlderAttemptError(
            f"it is attempt {hello.restart_count} of a job whose attempt {job.restart_count} is due"
        )
    if not job.is_active:
        raise NotPermittedError(f"the job is {job.state}")
    if site is None:
        raise NotPermittedError(f"partition {','.join(job.partitions)} is no site's")
    if job.batch_host not in _virtual_nodes(site, snapshot):
        raise NotPermittedError(f"its batch host {job.batch_host} is no virtual node of {site.name}")


def _virtual_nodes(site: SiteConfig, snapshot: Snapshot) -> tuple[str, ...]:
    partition = snapshot.partitions.get(site.partition)
    return site.virtual_nodes(partition.nodes if partition else ())


def request_id_of(job: Job, slurm_cluster: str) -> RequestId:
    """Return the name of this attempt. Slurm sets a new submit time at each requeue; both tell attempts apart."""
    return RequestId(slurm_cluster, job.slurm_job_id, job.array_task_id, job.submit_time_s, job.restart_count)


def submit_request(
    request_id: RequestId,
    job: Job,
    details: JobDetails,
    hello: Hello,
    payload: Payload,
    *,
    kill_wait_s: int,
    home: str,
    home_lease_s: int,
) -> agent_pb2.SubmitRequest:
    """Return the request. Who the user is and what was allocated is Slurm's word, never the proxy's."""
    return agent_pb2.SubmitRequest(
        request_id=agent_pb2.RequestId(
            slurm_cluster=request_id.slurm_cluster,
            slurm_job_id=request_id.slurm_job_id,
            array_task_id=request_id.array_task_id,
            submit_time_s=request_id.submit_time_s,
            restart_count=request_id.restart_count,
        ),
        spec=agent_pb2.RunSpec(
            script=payload.script,
            argv=payload.argv,
            environment=payload.environment,
            cwd=hello.cwd,
            umask=hello.umask,
            rlimits=[
                agent_pb2.Rlimit(name=name, soft=_limit(soft), hard=_limit(hard))
                for name, (soft, hard) in hello.rlimits.items()
            ],
            has_stdin=hello.has_stdin,
            is_output_joined=hello.is_output_joined,
            user_name=job.user_name,
            user_id=job.user_id,
            group_id=job.group_id,
            time_limit_s=job.time_limit_s or 0,
            resources=agent_pb2.Resources(
                cpus=job.cpus, memory_mib=job.memory_mib, gpus=job.gpus, gpu_type=details.gpu_type if job.gpus else ""
            ),
            kill_wait_s=kill_wait_s,
            account=job.account,
            home=home,
            home_lease_s=home_lease_s,
            partition=job.trail.own_partition if job.trail else job.partitions[0],
            constraint=details.constraint,
            image=job.trail.image if job.trail else "",
        ),
    )


def wish_against(job: Job, environment: Iterable[bytes]) -> str | None:
    """Return why the user would not have the job at a site, although the router let it go there while it was pending.

    The submit hook notes such wishes in the job, but a hook of an older release, or one that has failed, does not. The
    job's own environment tells them for certain, as soon as it has started.
    """
    if job.trail is None or not job.trail.added_at_s:
        return None
    options = dict(entry.split(b"=", 1) for entry in environment if entry.startswith(_OPTION) and b"=" in entry)
    image = options.get(_OPTION + b"_image", b"").decode(errors="replace")
    if options.get(_OPTION) == b"never":
        return "--overspill=never was not noted when it was submitted"
    if image and image != job.trail.image:
        return "--overspill-image was not noted when it was submitted"
    return None


def _limit(value: int) -> int:
    return _UNLIMITED if value < 0 else min(value, _UNLIMITED)
