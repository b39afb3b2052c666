"""`overspill logs`: a job's output as its user sees it, or its story as the relay saw it."""

from __future__ import annotations

import os
import pwd
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import click

from overspill.cli.output import json_option, print_json, print_line
from overspill.errors import NotFoundError, NotPermittedError, UnavailableError
from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.cluster import Job
from overspill_sidecar.commands.cluster import Cluster, find_jobs, show_job
from overspill_sidecar.commands.completing import job_ids

_LOOK_EVERY_S = 0.25
_ASK_SLURM_EVERY_S = 2.0
_CHUNK_BYTES = 64 * 1024
#: Details that say the same on each line.
_SAME = frozenset({"slurm_cluster", "restart_count", "run_id", "decision_id", "from_state", "at_ms"})


@click.command(short_help="A job's output, or what happened to it.")
@click.argument("job_id", metavar="JOBID", shell_complete=job_ids)
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@click.option("--stderr", "is_stderr", is_flag=True, help="The error file, where it is another one.")
@click.option("--events", "is_story", is_flag=True, help="What happened to the job, instead of its output.")
@json_option
def logs(job_id: str, *, follow: bool, is_stderr: bool, is_story: bool, as_json: bool) -> None:
    """Print the output file of job JOBID, local or diverted; of an array task, write 1234_7.

    Read with the rights of the job's owner. With --events: decision, hand-over, states, signals and end as the relay
    has seen them (root and SlurmUser only).

    \b
    Examples:
      overspill logs 1234
      overspill logs 1234_7 -f
      overspill logs 1234 --events
    """
    jobs = find_jobs(job_id)
    if is_story:
        _tell(jobs[0] if jobs else None, job_id, as_json=as_json)
        return
    if as_json:
        raise click.UsageError("--json goes with --events: output is bytes, not JSON")
    if not jobs:
        what = "its output file is where the user put it, and --events may know what happened to it"
        raise NotFoundError(f"Slurm does not know job {job_id} (any more); {what}")
    if len(jobs) > 1:
        raise NotFoundError(f"job {job_id} is an array, each task with a file of its own: name one, as {jobs[0].name}")
    output = _output(jobs[0], is_stderr=is_stderr)
    _act_as(jobs[0])
    _copy(output, follow=follow)


@dataclass(frozen=True, slots=True)
class _Output:
    job: Job
    path: Path


def _output(job: Job, *, is_stderr: bool) -> _Output:
    shown = show_job(job.name)
    # Where both are the same file, Slurm 26.05 shows no StdErr.
    path = (is_stderr and shown.get("StdErr")) or shown.get("StdOut", "")
    if not path:
        raise NotFoundError(f"job {job.name} has no output file: only batch jobs have")
    return _Output(job, Path(path))


def _act_as(job: Job) -> None:
    """Take the owner's rights: root must not follow a user's symbolic link to where the user may not read.

    Raises:
        NotPermittedError: if the caller is neither the owner nor root.
    """
    if os.geteuid() == job.user_id:
        return
    if os.geteuid() != 0:
        raise NotPermittedError(f"job {job.name} is {job.user_name}'s; only its owner and root may read its output")
    try:
        entry = pwd.getpwuid(job.user_id)
        os.initgroups(entry.pw_name, entry.pw_gid)
    except KeyError:
        os.setgroups([])
    os.setegid(job.group_id)
    os.seteuid(job.user_id)


def _copy(output: _Output, *, follow: bool) -> None:
    if follow:
        _wait_for(output)
    try:
        file = output.path.open("rb")
    except FileNotFoundError:
        what = "has not started yet" if output.job.is_pending else "is gone, or on another host"
        raise NotFoundError(f"{output.path} is not there: the job or its file {what}") from None
    except OSError as error:
        raise UnavailableError(f"cannot read {output.path}: {error.strerror}") from error
    with file:
        for chunk in _chunks(file, output.job.name, follow=follow):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def _wait_for(output: _Output) -> None:
    asked_at = 0.0
    while not output.path.exists():
        if time.monotonic() - asked_at > _ASK_SLURM_EVERY_S:
            asked_at = time.monotonic()
            if _is_over(output.job.name):
                return
        time.sleep(_LOOK_EVERY_S)


def _chunks(file: IO[bytes], job: str, *, follow: bool) -> Iterator[bytes]:
    """Yield the file's bytes; with `follow` until the job is over and nothing is left."""
    asked_at, is_over = time.monotonic(), not follow
    while True:
        try:
            chunk = file.read(_CHUNK_BYTES)
        except OSError as error:
            raise UnavailableError(f"cannot read {file.name}: {error.strerror}") from error
        if chunk:
            yield chunk
            continue
        if is_over:
            return
        if time.monotonic() - asked_at > _ASK_SLURM_EVERY_S:
            # Asked before the next read: what the job wrote until now is still read.
            asked_at, is_over = time.monotonic(), _is_over(job)
        else:
            time.sleep(_LOOK_EVERY_S)
        if os.fstat(file.fileno()).st_size < file.tell():
            # Slurm truncates the file when a requeued job starts again.
            file.seek(0)


def _is_over(job: str) -> bool:
    try:
        jobs = find_jobs(job)
    except UnavailableError:
        return False
    return not any(found.is_pending or found.is_active for found in jobs)


def _tell(job: Job | None, job_id: str, *, as_json: bool) -> None:
    slurm_job_id = job.slurm_job_id if job else int(job_id.partition("_")[0])
    daemons = Cluster.here().daemons
    events = daemons.events(slurm_job_id)
    if job is not None and job.trail is not None:
        found = daemons.decisions(pb.ListDecisionsRequest(decision_id=job.trail.decision_id))
        events = [*(_decided(decision) for decision in found), *events]
    if as_json:
        print_json([_as_json(event) for event in events])
        return
    if not events:
        print_line(f"the relay knows nothing of job {job_id}: it was never at a site, or too long ago")
    for event in events:
        details = "  ".join(f"{name}={value}" for name, value in sorted(event.details.items()) if name not in _SAME)
        at = datetime.fromtimestamp(event.at_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]
        print_line(f"{at}  {event.event:28}  {details}".rstrip())


def _decided(decision: pb.DecisionRecord) -> pb.JobEvent:
    details = {"verdict": decision.verdict, "reason": decision.reason, "site": decision.site}
    return pb.JobEvent(at_ms=decision.decided_at_ms, action="decided", event="decided", details=details)


def _as_json(event: pb.JobEvent) -> dict[str, object]:
    return {"at_ms": event.at_ms, "action": event.action, "event": event.event, "details": dict(event.details)}
