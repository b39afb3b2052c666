"""What the commands know of the cluster: its configuration as far as the caller may read it, and Slurm's own words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overspill.errors import NotFoundError, OverspillError, UnavailableError
from overspill_sidecar.cluster import Job, Snapshot
from overspill_sidecar.commands.daemons import Daemons
from overspill_sidecar.config import SidecarConfig, configured_path, load
from overspill_sidecar.slurm import CommandLineView, ask_jobs, queries
from overspill_sidecar.slurm.process import Output, run

_DEADLINE_S = 10.0
_JOB_ID = re.compile(r"(\d+)(?:_(\d+))?")
#: The line of `scontrol show job` that holds one field to its end.
_WHOLE_LINES = ("Command", "WorkDir", "StdErr", "StdIn", "StdOut")


@dataclass(frozen=True, slots=True)
class Cluster:
    """`config` is None where there is none, or the caller may not read it."""

    config: SidecarConfig | None
    #: Why it is None.
    problem: str = ""

    @classmethod
    def here(cls) -> Cluster:
        try:
            return cls(load(configured_path()))
        except OverspillError as error:
            return cls(None, error.reason)

    @property
    def daemons(self) -> Daemons:
        return Daemons.of(self.config)

    @property
    def site_by_partition(self) -> Mapping[str, str]:
        return {site.partition: site.name for site in self.config.sites} if self.config else {}

    def site_of(self, job: Job) -> str:
        """Return the site that the job runs at or may run at, empty for one that is not Overspill's."""
        for partition in job.partitions:
            if partition in self.site_by_partition:
                return self.site_by_partition[partition]
        if job.trail is None:
            return ""
        own = job.trail.partition.split(",")
        return job.trail.site if not set(job.partitions) <= set(own) else ""


def snapshot() -> Snapshot:
    """Return the cluster's state.

    Raises:
        UnavailableError: if slurmctld does not answer.
    """
    try:
        return asyncio.run(CommandLineView(_DEADLINE_S).snapshot())
    except UnavailableError as error:
        raise _unanswered(error) from error


def all_jobs() -> tuple[Job, ...]:
    """Return every job that slurmctld remembers, ended ones included.

    Raises:
        UnavailableError: if slurmctld does not answer.
    """
    return _jobs([*queries.jobs_argv(), "--states=all"])


def find_jobs(job: str) -> tuple[Job, ...]:
    """Return Slurm's records of a job id or an array task ("12_3"); empty if it knows none (any more).

    Raises:
        NotFoundError: if that is no job id.
        UnavailableError: if slurmctld does not answer.
    """
    check_job_id(job)
    return _jobs([*queries.jobs_argv(), f"--jobs={job}", "--states=all"])


def check_job_id(job: str) -> None:
    """Raise NotFoundError unless the text is a job id or an array task."""
    if not _JOB_ID.fullmatch(job):
        raise NotFoundError(f"{job!r} is no job id: write 1234, or 1234_5 for an array task")


def show_job(job: str) -> Mapping[str, str]:
    """Return what `scontrol show job` prints, by field: the name and the paths whole, whatever is in them.

    Raises:
        NotFoundError: if Slurm knows no such job.
        UnavailableError: if slurmctld does not answer.
    """
    argv = ["scontrol", "show", "job", job]
    output = _run(argv)
    if "Invalid job id" in output.stderr:
        raise NotFoundError(f"Slurm does not know job {job}")
    return parse_shown_job(_checked(argv, output))


def parse_shown_job(text: str) -> Mapping[str, str]:
    """Read one job's record.

    A job's name and comment may hold lines that look like Slurm's. They stand before the paths: the last line counts.
    """
    fields: dict[str, str] = {}
    first, _, rest = text.partition("\n")
    if match := re.match(r"JobId=\S+ (?:Array\w+=\S+ )*JobName=(.*)", first):
        fields["JobName"] = match[1]
    for line in rest.splitlines():
        name, _, value = line.strip().partition("=")
        if name in _WHOLE_LINES:
            fields[name] = value
    return fields


def trail_facts(admin_comment: str) -> Mapping[str, object]:
    """Return all that Overspill wrote under its key of an admin_comment."""
    try:
        whole = json.loads(admin_comment)
    except ValueError:
        return {}
    ours = whole.get("overspill") if isinstance(whole, dict) else None
    return ours if isinstance(ours, dict) else {}


def _jobs(argv: Sequence[str]) -> tuple[Job, ...]:
    try:
        return asyncio.run(ask_jobs(argv, _DEADLINE_S))
    except UnavailableError as error:
        raise _unanswered(error) from error


def _run(argv: Sequence[str]) -> Output:
    try:
        return asyncio.run(run(argv, _DEADLINE_S))
    except UnavailableError as error:
        raise _unanswered(error) from error


def _checked(argv: Sequence[str], output: Output) -> str:
    if output.status != 0:
        reason = output.stderr.strip() or f"exited with {output.status}"
        raise _unanswered(UnavailableError(f"{argv[0]}: {reason}"))
    return output.stdout


def _unanswered(error: UnavailableError) -> UnavailableError:
    return UnavailableError(f"slurmctld does not answer: {error.reason}")
