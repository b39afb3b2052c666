"""The job completion log, as slurmctld's jobcomp/filetxt writes it: one line for each job that is over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from overspill_sidecar.history.lines import OnBadLine, parse_time_s, read_lines, required
from overspill_sidecar.history.past_job import PastJob
from overspill_sidecar.slurm_text import parse_time_limit_s

#: Source: the format in jobcomp_filetxt.so of 22.05, 24.11 and 26.05 (the same). Name and WorkDir are the user's: the
#: text between is taken from what stands round it, and a user who forges it spoils no job's line but his own.
_LINE = re.compile(
    r"JobId=(?P<id>\d+) UserId=(?P<user>\S*)\(\d+\) GroupId=\S+ Name=.* JobState=(?P<state>\S+)"
    r" Partition=(?P<partition>\S+) TimeLimit=(?P<limit>\S+) StartTime=(?P<start>\S+) EndTime=(?P<end>\S+)"
    r" NodeList=(?P<hosts>\S*) NodeCnt=(?P<nodes>\d+) ProcCnt=(?P<cpus>\d+) WorkDir=.* ReservationName=.*"
    r" Account=(?P<account>\S*) QOS=(?P<qos>\S*) WcKey=\S* Cluster=\S* SubmitTime=(?P<submit>\S+)"
    r" EligibleTime=(?P<eligible>\S+)",
)
_NO_HOSTS = frozenset({"", "(null)", "None", "n/a"})


def read_completion_log(lines: Iterable[str], on_bad_line: OnBadLine | None = None) -> Iterator[PastJob]:
    """Read the file that JobCompLoc names. Its times are this host's local time, if it is in slurmctld's time zone.

    Raises:
        InvalidRequestError: if a line cannot be read and `on_bad_line` is not there to take note of it.
    """
    return read_lines(enumerate(lines, start=1), _parse, "record of jobcomp/filetxt", on_bad_line)


def _parse(line: str) -> PastJob | None:
    if not line.strip():
        return None
    match = _LINE.match(line)
    if match is None:
        raise ValueError("its fields are not those that slurmctld writes")
    has_run = match["hosts"] not in _NO_HOSTS
    return PastJob(
        job_id=match["id"],
        submit_s=required(parse_time_s(match["submit"]), "SubmitTime"),
        start_s=parse_time_s(match["start"]) if has_run else None,
        end_s=parse_time_s(match["end"]),
        cpus=max(1, int(match["cpus"])),
        # Whole minutes.
        time_limit_s=parse_time_limit_s(match["limit"]),
        user=match["user"],
        partition=match["partition"].split(",")[0],
        eligible_s=parse_time_s(match["eligible"]),
        account=match["account"],
        qos=match["qos"],
        nodes=int(match["nodes"]) or None,
    )
