"""Which requests for a run the site takes. Pure."""

from __future__ import annotations

from collections.abc import Collection

from overspill.errors import ExhaustedError, InvalidRequestError, NotPermittedError, UnavailableError, UnrunnableError
from overspill.request_id import RequestId
from overspill.v1 import agent_pb2 as pb
from overspill_agent import runs
from overspill_agent.capacity import Capacity, Holding
from overspill_agent.config import ClusterSection
from overspill_agent.launches import is_closed, is_plain_absolute
from overspill_agent.limits import is_spec_too_large, most_of, taken_by, why_beyond
from overspill_agent.runs import Run
from overspill_agent.service.wire import resources_of

#: Beyond the permissions and the three bits above them there is nothing for umask(2) to take away.
_MOST_UMASK = 0o7777


def check_caller(slurm_cluster: str, caller_names: frozenset[str]) -> None:
    """Refuse a caller who speaks for another cluster than the one in its certificate.

    Raises:
        NotPermittedError: it does.
    """
    if slurm_cluster not in caller_names:
        raise NotPermittedError(
            f"the certificate is for {', '.join(sorted(caller_names)) or 'nobody'}, not for cluster"
            f" {slurm_cluster!r}; the ClusterName must be a DNS name in the relay's certificate"
        )


def check_spec(spec: pb.RunSpec) -> None:
    """Refuse a spec that no site could run.

    Raises:
        InvalidRequestError: names the field.
    """
    if not spec.script:
        raise InvalidRequestError("spec.script is empty")
    if not spec.argv or not is_plain_absolute(spec.argv[0]) or spec.argv[0].endswith(b"/"):
        raise InvalidRequestError("spec.argv must begin with the script's absolute path")
    if not is_plain_absolute(spec.cwd):
        raise InvalidRequestError("spec.cwd must be an absolute path without `..`")
    for name, path in (("spec.cwd", spec.cwd), ("spec.argv[0]", spec.argv[0])):
        if is_closed(path):
            raise InvalidRequestError(
                f"{name} lies in /proc, /sys, /dev or /.overspill, where no site can make a directory;"
                " submit the job from another one"
            )
    if spec.umask > _MOST_UMASK:
        raise InvalidRequestError("spec.umask must be at most 0o7777")
    if any(b"\0" in argument for argument in (*spec.argv, *spec.environment)):
        raise InvalidRequestError("spec.argv and spec.environment can hold no NUL byte")
    if any(b"=" not in entry for entry in spec.environment):
        raise InvalidRequestError("spec.environment must be entries NAME=value")


def check_size(wanted: Holding, capacity: Capacity, limits: ClusterSection) -> None:
    """Refuse a run that is larger than every slot of the site, or than all that its cluster may have there.

    Raises:
        UnrunnableError: says what it asks for and what there is.
        UnavailableError: nobody knows what there is.
    """
    if not capacity.slots:
        raise UnavailableError("the site does not know what it has, because its back end has not answered yet")
    if not capacity.can_ever_hold(wanted):
        asked, most = wanted.resources, max(capacity.slots, key=lambda slot: slot.size.cpus).size
        kind = f" of type {wanted.gpu_type}" if wanted.gpu_type else ""
        raise UnrunnableError(
            f"the run asks for {asked.cpus} CPUs, {asked.memory_mib} MiB and {asked.gpus} GPUs{kind} in one place;"
            f" the largest of this site has {most.cpus}, {most.memory_mib} MiB and {most.gpus}"
        )
    if not wanted.resources.fits_in(most_of(limits, capacity.total)):
        raise UnrunnableError(why_beyond(limits, capacity.total, [], wanted.resources))


def check_spec_size(spec: pb.RunSpec, limits: ClusterSection) -> None:
    """Refuse a spec that is larger than its cluster may keep here.

    Raises:
        UnrunnableError: says how large it is and may be.
    """
    size = spec.ByteSize()
    if is_spec_too_large(limits, size):
        raise UnrunnableError(
            f"script, arguments and environment are {size} bytes; this site takes {limits.max_spec_kib} KiB"
            f" ([clusters] max_spec_kib)"
        )


def check_room(run: Run, unfinished: Collection[Run], limits: ClusterSection, capacity: Capacity) -> None:
    """Refuse a run whose cluster has what it may have. One whose request has made a run already has its room.

    A run for which no slot is left is taken all the same: it waits, and goes home if that takes too long.

    Raises:
        ExhaustedError: says which limit.
    """
    taken = taken_by(run.request_id.slurm_cluster, unfinished)
    reason = why_beyond(limits, capacity.total, taken, run.resources)
    if reason and all(other.request_id != run.request_id for other in unfinished):
        raise ExhaustedError(reason)


def new_run(run_id: str, request_id: RequestId, spec: pb.RunSpec, *, account: str, image: str, at_ms: int) -> Run:
    """Return the run as it is accepted."""
    run = Run(
        run_id=run_id,
        request_id=request_id,
        account=account,
        resources=resources_of(spec.resources),
        gpu_type=spec.resources.gpu_type.lower(),
        image=image,
        has_stdin=spec.has_stdin,
        accepted_at_ms=at_ms,
        state_at_ms=at_ms,
    )
    return runs.stdin_awaited(run, at_ms)
