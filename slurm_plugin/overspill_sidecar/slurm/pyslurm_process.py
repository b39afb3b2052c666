"""The program that asks slurmctld by pyslurm, in a process of its own, and says what squeue would print.

libslurm ends the process that it is in where it cannot read slurm.conf, and may crash it; so that process is never the
sidecar. Standard library and pyslurm only, because it is started again after every failure.

It reads a line of JSON for each question, {"fields": [...], "left_out": [states], "field_end": ..., "record_end": ...},
and answers with a line "ok BYTES" or "failed BYTES" and so many bytes: the records, or why there are none. Before all,
it says "ready BYTES" with its versions as JSON. It ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from collections.abc import Callable
from typing import BinaryIO, Protocol

_NOTHING = "(null)"
#: What squeue takes a longer time limit for; it prints INVALID.
_LONGEST_MIN = 365 * 24 * 60


class _Job(Protocol):
    """What is read of pyslurm.Job. Numbers that Slurm does not set are None, as are empty texts."""

    id: int
    array_id: int | None
    #: Of task 0, too, this is None.
    array_task_id: int | None
    #: Without the limit of tasks at once.
    array_tasks_waiting: str | None
    array_tasks_parallel: int | None
    user_id: int
    group_id: int
    state: str
    state_reason: str | None
    partition: str | None
    allocated_nodes: str | None
    batch_host: str | None
    cpus: int
    allocated_tres: dict[str, int | str]
    requested_tres: dict[str, int | str]
    #: Minutes; None: unlimited.
    time_limit: int | None
    start_time: int | None
    end_time: int | None
    submit_time: int | None
    eligible_time: int | None
    deadline: int | None
    qos: str | None
    reservation: str | None
    account: str | None
    priority: int | str | None
    requeue_count: int
    is_requeueable: bool
    cores_reserved_for_system: int | None
    threads_reserved_for_system: int | None
    admin_comment: str | None


def _array_task_id(job: _Job) -> str:
    if job.array_tasks_waiting:
        at_once = f"%{job.array_tasks_parallel}" if job.array_tasks_parallel else ""
        return job.array_tasks_waiting + at_once
    return "N/A" if job.array_id is None else str(job.array_task_id or 0)


def _time_limit(job: _Job) -> str:
    return "UNLIMITED" if job.time_limit is None or job.time_limit > _LONGEST_MIN else str(job.time_limit)


def _end_time(job: _Job) -> str:
    if job.time_limit is None and job.end_time and job.end_time > time.time():
        return "NONE"
    return _number(job.end_time)


def _priority(job: _Job) -> str:
    if job.priority is None:
        return str(2**32 - 2)
    return str(2**32 - 1 if isinstance(job.priority, str) else job.priority)


def _account(job: _Job) -> str:
    """Return the account; one that is no text, which only a cluster without accounting has, is none."""
    try:
        return job.account or _NOTHING
    except UnicodeDecodeError:
        return _NOTHING


def _number(value: int | None) -> str:
    return "N/A" if value is None else str(value)


class _Names:
    """Users' names, looked up once for each question."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def of(self, job: _Job) -> str:
        number = job.user_id
        if number not in self._known:
            try:
                self._known[number] = pwd.getpwuid(number).pw_name
            except KeyError:
                self._known[number] = str(number)
        return self._known[number]


def _fields(names: _Names) -> dict[str, Callable[[_Job], str]]:
    """Return what makes each of squeue's fields."""
    return {
        "JobID": lambda job: str(job.id),
        "ArrayJobID": lambda job: str(job.array_id or job.id),
        "ArrayTaskID": _array_task_id,
        "UserID": lambda job: str(job.user_id),
        "UserName": names.of,
        "GroupID": lambda job: str(job.group_id),
        "State": lambda job: job.state,
        "Reason": lambda job: job.state_reason or "None",
        "Partition": lambda job: job.partition or "",
        "NodeList": lambda job: job.allocated_nodes or "",
        "BatchHost": lambda job: job.batch_host or "n/a",
        "NumCPUs": lambda job: str(job.cpus),
        "tres-alloc": lambda job: ",".join(
            f"{name}={count}" for name, count in (job.allocated_tres or job.requested_tres).items()
        ),
        "TimeLimit": _time_limit,
        "StartTime": lambda job: _number(job.start_time),
        "EndTime": _end_time,
        "SubmitTime": lambda job: _number(job.submit_time),
        "EligibleTime": lambda job: _number(job.eligible_time),
        "QOS": lambda job: job.qos or _NOTHING,
        "Reservation": lambda job: job.reservation or _NOTHING,
        "PriorityLong": _priority,
        "RestartCnt": lambda job: str(job.requeue_count),
        "Requeue": lambda job: "1" if job.is_requeueable else "0",
        "Deadline": lambda job: _number(job.deadline),
        "CoreSpec": lambda job: _number(job.cores_reserved_for_system or job.threads_reserved_for_system),
        "admin_comment": lambda job: job.admin_comment or _NOTHING,
        "Account": _account,
    }


def _records(question: bytes) -> bytes:
    import pyslurm  # noqa: PLC0415 - the installation decides whether there is one

    asked = json.loads(question)
    known = _fields(_Names())
    makers = [known[name] for name in asked["fields"]]
    left_out, field_end, record_end = frozenset(asked["left_out"]), asked["field_end"], asked["record_end"]
    return "".join(
        field_end.join([make(job) for make in makers]) + record_end + "\n"
        for of_cluster in pyslurm.Jobs.load().data.values()
        for job in of_cluster.values()
        if job.state not in left_out
    ).encode()


def _say(answers: BinaryIO, word: str, body: bytes) -> None:
    answers.write(f"{word} {len(body)}\n".encode() + body)
    answers.flush()


def main() -> None:
    """Answer until there are no more questions."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints is no answer.
    os.dup2(2, 1)
    try:
        import pyslurm  # noqa: PLC0415 - see `_records`

        versions = {"pyslurm": pyslurm.__version__, "slurm": pyslurm.SLURM_RELEASE}
    except (ImportError, AttributeError) as error:
        _say(answers, "failed", str(error).encode())
        return
    # Reads slurm.conf; 26.05 crashes at the first question without. Where it cannot, this process may end here.
    pyslurm.slurm_init()
    _say(answers, "ready", json.dumps(versions).encode())
    for question in sys.stdin.buffer:
        try:
            records = _records(question)
        except (pyslurm.PyslurmError, UnicodeDecodeError) as error:
            _say(answers, "failed", str(error).encode())
        else:
            _say(answers, "ok", records)


if __name__ == "__main__":
    main()
