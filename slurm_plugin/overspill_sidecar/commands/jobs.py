"""`overspill jobs`: the diverted jobs."""

from __future__ import annotations

import pwd
from collections.abc import Mapping, Sequence

import click

from overspill.cli.output import json_option, local_time, print_json, print_line, print_table, styled, whole_duration
from overspill.errors import NotPermittedError, OverspillError
from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.cluster import STATES, Job
from overspill_sidecar.commands.cluster import Cluster, all_jobs, trail_facts
from overspill_sidecar.commands.completing import site_names

_Runs = Mapping[tuple[int, int], pb.SiteRun]


@click.command(short_help="The diverted jobs.")
@click.option("--user", help="Jobs of this user only.")
@click.option("--site", help="Jobs at this site only.", shell_complete=site_names)
@click.option(
    "--state",
    type=click.Choice(sorted(STATES), case_sensitive=False),
    metavar="STATE",
    help="Jobs in this state only, as squeue names it: RUNNING, PENDING, COMPLETED, …",
)
@json_option
def jobs(*, user: str | None, site: str | None, state: str | None, as_json: bool) -> None:
    """List diverted jobs: running, pending where a site may take them, and ended as long as Slurm remembers them.

    RUN is the job's run at the site, as the site names it; root and SlurmUser see it.

    \b
    Examples:
      overspill jobs
      overspill jobs --user alice --state running
      overspill jobs --site site-a --json
    """
    if user is not None and not _is_known(user):
        raise click.BadParameter(f"there is no user {user!r}", param_hint="--user")
    here = Cluster.here()
    if site is not None and here.config is not None and site not in here.site_by_partition.values():
        raise click.BadParameter(f"sidecar.toml has no site {site!r}", param_hint="--site")
    chosen = [
        job
        for job in all_jobs()
        if (found := _site(here, job))
        and user in {None, job.user_name}
        and site in {None, found}
        and state in {None, job.state}
    ]
    runs, problems = _runs(here)
    rows = [_row(job, _site(here, job), runs) for job in chosen]
    if as_json:
        print_json({"jobs": rows, "problems": problems})
        return
    if rows:
        columns = ["JOBID", "USER", "PARTITION", "SITE", "STATE", "SINCE", "PREDICTED WAIT", "RUN", "RUN STATE"]
        print_table(columns, [_cells(row) for row in rows])
    else:
        print_line("no diverted jobs")
    for problem in problems:
        print_line(styled(f"! {problem}", "yellow"))


def _is_known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _site(here: Cluster, job: Job) -> str:
    """Return the site; a job that has ended tells by its trail, too."""
    return here.site_of(job)


def _runs(here: Cluster) -> tuple[_Runs, list[str]]:
    """Return the sites' runs by job id and restart count, and why some are not known."""
    try:
        answer = here.daemons.site_runs()
    except NotPermittedError:
        return {}, []
    except OverspillError as error:
        return {}, [f"what the sites run is not known: {error.reason}"]
    return {(run.slurm_job_id, run.restart_count): run for run in answer.runs}, list(answer.problems)


def _row(job: Job, site: str, runs: _Runs) -> dict[str, object]:
    run = runs.get((job.slurm_job_id, job.restart_count))
    facts = trail_facts(job.admin_comment)
    wait_s = facts.get("wait_s")
    return {
        "job_id": _shown_id(job),
        "user": job.user_name,
        "from_partition": job.trail.partition if job.trail else None,
        "partition": ",".join(job.partitions),
        "site": site,
        "state": job.state,
        "reason": job.reason,
        "since_unix_s": _since(job),
        "predicted_wait_s": wait_s if isinstance(wait_s, int) else None,
        "run_id": run.run_id if run else None,
        "run_state": run.state if run else None,
    }


def _shown_id(job: Job) -> str:
    if job.array_task_id is not None:
        return f"{job.array_job_id}_{job.array_task_id}"
    return str(job.array_job_id if job.tasks > 1 else job.slurm_job_id)


def _since(job: Job) -> int | None:
    if job.is_pending:
        return job.submit_time_s
    return job.start_time_s if job.has_attempt else job.end_time_s or job.start_time_s


def _cells(row: Mapping[str, object]) -> Sequence[str]:
    wait_s, since, own = row["predicted_wait_s"], row["since_unix_s"], row["from_partition"]
    moved = f"{own} -> {row['partition']}" if own and own != row["partition"] else str(row["partition"])
    return [
        str(row["job_id"]),
        str(row["user"]),
        moved,
        str(row["site"]),
        str(row["state"]),
        local_time(since if isinstance(since, int) else None),
        whole_duration(wait_s) if isinstance(wait_s, int) else "-",
        str(row["run_id"] or "-"),
        str(row["run_state"] or "-"),
    ]
