"""Stand-ins for Slurm's commands that show a queue which moves: jobs come, start and end between two looks."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

from overspill_sidecar.slurm.queries import FIELD_END, JOB_FIELDS
from overspill_sidecar.wait import OnlineModel, WaitingJob

_RECORDED = Path(__file__).parents[1] / "unit" / "slurm_22_05"
_RECORD_END = "\x1e"
_NODES, _NODE_CPUS, _SITE_CPUS = 313, 64, 4096
_USERS, _FIRST_USER_ID = 300, 2001
_PARTITIONS = ("batch", "long")
#: Between two steps so many jobs end, start and come, and of so many the scheduler plans another start.
_MOVING, _PLANNED_ANEW = 20, 500
_HOUR_S = 3600
_COMMANDS = {
    "squeue": 'sed "s/\\x1e/${{SQUEUE_FORMAT2##*:}}/" {directory}/jobs.txt',
    "scontrol": 'case "$*" in *partition) f=partitions;; *node) f=nodes;; *config) f=config;; *) exit 0;; esac\n'
    "cat {directory}/$f.txt",
}


class MovingQueue:
    """A directory of commands for PATH, and the queue that they show."""

    def __init__(self, directory: Path, pending: int, running: int) -> None:
        self._directory = directory
        self._random_numbers = random.Random(1)  # noqa: S311 - a workload, not a secret
        self._record = self._recorded_job()
        self._made = 0
        self._pending = [self._new(time.time() - self._random_numbers.uniform(0, _HOUR_S)) for _ in range(pending)]
        self._running: list[dict[str, str]] = []
        for _ in range(running):
            self._running.append(self._new(time.time() - 2 * _HOUR_S))
            self._start(self._running[-1], time.time() - self._random_numbers.uniform(0, _HOUR_S))
        for name, script in _COMMANDS.items():
            (directory / name).write_text(f"#!/bin/sh\n{script.format(directory=directory)}\n")
            (directory / name).chmod(0o755)
        self._write_cluster()
        self.write()

    def step(self) -> None:
        """Let jobs end, start and come."""
        now_s = time.time()
        del self._running[:_MOVING]
        for _ in range(_MOVING):
            job = self._pending.pop(self._random_numbers.randrange(len(self._pending)))
            self._start(job, now_s)
            self._running.append(job)
            self._pending.append(self._new(now_s))
        for job in self._random_numbers.sample(self._pending, _PLANNED_ANEW):
            job["StartTime"] = str(int(now_s) + self._random_numbers.randrange(_HOUR_S, 24 * _HOUR_S))
        self.write()

    def write(self) -> None:
        """Have squeue show the queue as it is now."""
        records = "".join(FIELD_END.join(job.values()) + f"{_RECORD_END}\n" for job in (*self._pending, *self._running))
        path = self._directory / "jobs.txt"
        path.with_suffix(".new").write_text(records, newline="")
        path.with_suffix(".new").rename(path)

    def _recorded_job(self) -> dict[str, str]:
        """Return the fields of a recorded pending job that competes for nodes."""
        text = (_RECORDED / "jobs.txt").read_text()
        record = next(line for line in text.splitlines() if line.startswith(f"28{FIELD_END}"))
        return dict(zip(JOB_FIELDS, record.rstrip(_RECORD_END).split(FIELD_END), strict=True))

    def _new(self, submitted_s: float) -> dict[str, str]:
        self._made += 1
        user, cpus = self._random_numbers.randrange(_USERS), 2 ** self._random_numbers.randrange(7)
        number, at = str(self._made), str(int(submitted_s))
        # Unlike all others: of jobs that are alike, the model is asked about one.
        limit_min = self._random_numbers.randrange(10, 24 * 60)
        return self._record | {
            "JobID": number,
            "ArrayJobID": number,
            "UserID": str(_FIRST_USER_ID + user),
            "UserName": f"user{user}",
            "Partition": self._random_numbers.choice(_PARTITIONS),
            "NumCPUs": str(cpus),
            "tres-alloc": f"cpu={cpus},mem={cpus}G,node=1,billing={cpus}",
            "TimeLimit": f"{limit_min // 60:02}:{limit_min % 60:02}:00",
            "SubmitTime": at,
            "EligibleTime": at,
            "PriorityLong": str(self._random_numbers.randrange(1_000_000)),
        }

    def _start(self, job: dict[str, str], at_s: float) -> None:
        node = f"c{self._random_numbers.randrange(1, _NODES + 1)}"
        job |= {"State": "RUNNING", "Reason": "None", "NodeList": node, "BatchHost": node}
        job |= {"StartTime": str(int(at_s)), "EndTime": str(int(at_s) + 24 * _HOUR_S)}

    def _write_cluster(self) -> None:
        partitions = (_RECORDED / "partitions.txt").read_text()
        partitions = re.sub(r"Nodes=c\[1-\d\]", f"Nodes=c[1-{_NODES}]", partitions)
        (self._directory / "partitions.txt").write_text(partitions)
        nodes = (_RECORDED / "nodes.txt").read_text().splitlines()
        mine, sites = nodes[0], nodes[-1]
        mine = mine.replace("CPUTot=2", f"CPUTot={_NODE_CPUS}").replace("RealMemory=2000", "RealMemory=256000")
        sites = sites.replace("CPUTot=8", f"CPUTot={_SITE_CPUS}").replace("RealMemory=16384", "RealMemory=16384000")
        lines = [mine.replace("NodeName=c1 ", f"NodeName=c{number} ") for number in range(1, _NODES + 1)]
        (self._directory / "nodes.txt").write_text("\n".join([*lines, sites]) + "\n")
        config = (_RECORDED / "config.txt").read_text().replace("overspill_wait=00:01:00", "overspill_wait=00:30:00")
        (self._directory / "config.txt").write_text(config)


def experienced_model(jobs: int) -> OnlineModel:
    """Return a model that has seen so many jobs of these users, of which some waited, and wants trees."""
    drawn = random.Random(2)  # noqa: S311 - a workload, not a secret
    model, began_s = OnlineModel(_NODES * _NODE_CPUS), time.time() - 60.0 * jobs - _HOUR_S
    for number in range(jobs):
        at_s, key = began_s + 60.0 * number, f"past{number}"
        model.submitted(
            WaitingJob(
                key=key,
                submit_s=at_s,
                cpus=2 ** drawn.randrange(7),
                time_limit_s=60.0 * drawn.randrange(10, 24 * 60),
                user=f"user{drawn.randrange(_USERS)}",
                partition=drawn.choice(_PARTITIONS),
            )
        )
        if number >= 20:
            model.started(f"past{number - 20}", at_s)
        if number >= 40:
            model.ended(f"past{number - 40}", at_s)
    return model
