"""Plays all cases one way and brings home what their users can see of it."""

from __future__ import annotations

import os
import re
import shlex
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.e2e.cases import Case
from tests.rig import Rig
from tests.rig.accounts import numbers_of
from tests.rig.slurm_jobs import TERMINAL_STATES, parse_job
from tests.rig.waiting import poll

#: Job ids of so many digits are told from any other number in a file.
FIRST_JOB_ID = 7_000_001
_LIBRARY = Path(__file__).with_name("session.sh").read_text()
_SESSIONS_AT_ONCE = 24
_SESSION_TIMEOUT_S = 300.0
_ALL_ENDED_TIMEOUT_S = 300.0
#: Shown before and after the first difference.
_EXCERPT_CHARACTERS = 300
#: What differs between any two runs of a job on any two nodes.
_VOLATILE_FIELDS = {
    *("Priority", "Partition", "AllocNode:Sid", "NodeList", "BatchHost", "AdminComment", "Scheduler", "RunTime"),
    *("SubmitTime", "EligibleTime", "AccrueTime", "StartTime", "EndTime", "LastSchedEval", "PreemptEligibleTime"),
}
_JOB_ID = re.compile(rb"\d{7,}")
_NODE = re.compile(rb"\b(?:c[0-9]+|ovs1)\b")
_TIME = re.compile(rb"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?\b")
#: A job's other name since Slurm 25.11: all that have one have different ones.
_SLUID = re.compile(rb"\bs[0-9A-Z]{13}\b")
#: Which way the session was played. Slurm 26.05 shows how a job was submitted.
_WAY = re.compile(rb"--overspill=(?:never|always)\b")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a user can see once everything of a session is over; job ids, nodes and times have neutral names.

    Attributes:
        said: what the session printed and its exit code.
        jobs: each job's record, but for what differs between any two runs.
        files: path -> mode, owner and content of everything in the session's directory.
    """

    said: str
    jobs: tuple[dict[str, str], ...]
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Played:
    """An outcome and the partitions that its jobs ran in."""

    outcome: Outcome
    partitions: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Session:
    case: Case
    said: str
    #: Ids as sbatch told them, in order.
    job_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """A line of squeue: a job or a task of an array."""

    array_id: int
    task: str
    job_id: int
    state: str
    partition: str

    @property
    def name(self) -> str:
        """Under which scontrol finds it and no other."""
        return f"{self.array_id}_{self.task}" if self.task.isdigit() else str(self.job_id)


def play(
    rig: Rig,
    cases: Collection[Case],
    *,
    way: str,
    sessions_at_once: int = _SESSIONS_AT_ONCE,
    is_patient: bool = False,
) -> dict[str, Played]:
    """Play the cases side by side; return what came of each, by its name.

    Args:
        rig: whose users' directories `compare` this moves away at the end, for the next way to find the same paths.
        cases: to be played.
        way: value of sbatch's option `--overspill`.
        sessions_at_once: how many are played at the same time.
        is_patient: whether a session's jobs end before the next begins, for sites that start jobs slowly.
    """
    with ThreadPoolExecutor(sessions_at_once) as pool:
        sessions = list(pool.map(partial(_act_and_wait if is_patient else _act, rig, way), cases))
    wanted = {job_id for session in sessions for job_id in session.job_ids}
    seen: dict[int, _Task] = {}

    def is_all_over() -> bool:
        seen.update((task.job_id, task) for task in _queue(rig))
        open_ids = {task.array_id for task in seen.values() if task.state not in TERMINAL_STATES}
        return not wanted & open_ids and wanted <= {task.array_id for task in seen.values()}

    poll(is_all_over, timeout_s=_ALL_ENDED_TIMEOUT_S, interval_s=0.5)
    with ThreadPoolExecutor(_SESSIONS_AT_ONCE) as pool:
        played = list(pool.map(lambda session: _collect(rig, session, seen.values()), sessions))
    for user in {case.user for case in cases}:
        compared = rig.cluster.path(f"/home/{user}/compare")
        compared.rename(tempfile.mkdtemp(prefix=f"compared-{way}-", dir=compared.parent))
    return {session.case.name: result for session, result in zip(sessions, played, strict=True)}


def differences(local: Outcome, diverted: Outcome) -> list[str]:
    """Return a line for each thing that a user can tell apart."""
    sides = [
        {
            "said": outcome.said,
            **{f"job {i}: {name}": value for i, job in enumerate(outcome.jobs) for name, value in job.items()},
            **{f"file {name!r}": content for name, content in outcome.files.items()},
        }
        for outcome in (local, diverted)
    ]
    names = dict.fromkeys([*sides[0], *sides[1]])
    pairs = [(name, sides[0].get(name), sides[1].get(name)) for name in names]
    return [f"{name}: {_excerpts(here, there)}" for name, here, there in pairs if here != there]


def _excerpts(here: str | None, there: str | None) -> str:
    """Return both texts from a little before where they part."""
    pairs = enumerate(zip(here or "", there or "", strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(here or ""), len(there or "")))
    begin, end = max(0, same - _EXCERPT_CHARACTERS), same + _EXCERPT_CHARACTERS
    return " but diverted ".join(
        "nothing" if text is None else f"{text[begin:end]!r} of {len(text)}" for text in (here, there)
    )


def _directory(case: Case) -> str:
    return f"/home/{case.user}/compare/{case.directory or case.name}"


def _act(rig: Rig, way: str, case: Case) -> _Session:
    """Set the scene and play one session to its end."""
    directory = _directory(case)
    _make_directories(rig.cluster.path(directory), numbers_of(case.user))
    for name, content in {"job.sh": case.script, **case.files}.items():
        rig.cluster.write(f"{directory}/{name}", content, user=case.user)
    submitted = rig.cluster.write(f"/tmp/{case.name}.{way}", b"", user=case.user)
    settings = f"way={way} submitted={shlex.quote(f'/tmp/{case.name}.{way}')}\n"
    done = rig.cluster.run(
        ["bash", "-c", settings + _LIBRARY + case.commands],
        user=case.user,
        cwd=directory,
        env=case.environment,
        timeout=_SESSION_TIMEOUT_S,
    )
    ids = dict.fromkeys(int(number) for number in re.findall(r"\d{7,}", submitted.read_text()))
    return _Session(case, f"{done.stdout}{done.stderr}exit code {done.returncode}", tuple(ids))


def _act_and_wait(rig: Rig, way: str, case: Case) -> _Session:
    """Play one session and wait until its jobs are over; `play` tells of those that never are."""
    session = _act(rig, way, case)

    def is_over() -> bool:
        return all(task.state in TERMINAL_STATES for task in _queue(rig) if task.array_id in session.job_ids)

    poll(is_over, timeout_s=_ALL_ENDED_TIMEOUT_S, interval_s=1.0)
    return session


def _make_directories(path: Path, owner: tuple[int, int]) -> None:
    if not path.exists():
        _make_directories(path.parent, owner)
        try:
            path.mkdir(mode=0o755)
            os.chown(path, *owner)
        except FileExistsError:
            return  # another session's doing


def _queue(rig: Rig) -> Iterator[_Task]:
    argv = ["squeue", "--noheader", "--states=all", "--array", "--format=%F|%K|%A|%T|%P"]
    for line in rig.cluster.run(argv, check=True).stdout.splitlines():
        array_id, task, job_id, state, partition = line.split("|")
        yield _Task(int(array_id), task, int(job_id), state, partition)


def _collect(rig: Rig, session: _Session, queue: Collection[_Task]) -> Played:
    order = {job_id: index for index, job_id in enumerate(session.job_ids, start=1)}
    tasks = [task for task in queue if task.array_id in order]
    tasks.sort(key=lambda task: (order[task.array_id], int(task.task) if task.task.isdigit() else -1))
    labels = {str(task.job_id): f"<job {order[task.array_id]} {task.task}>" for task in tasks}
    labels |= {str(job_id): f"<job {number}>" for job_id, number in order.items()}
    neutral = partial(_neutral, labels={key.encode(): value.encode() for key, value in labels.items()})
    outcome = Outcome(
        said=neutral(os.fsencode(session.said)),
        jobs=tuple(_record(rig, task, neutral) for task in tasks),
        files=dict(_files(rig.cluster.path(_directory(session.case)), neutral)),
    )
    return Played(outcome, frozenset(task.partition for task in tasks))


def _record(rig: Rig, task: _Task, neutral: Callable[[bytes], str]) -> dict[str, str]:
    shown = rig.cluster.run(["scontrol", "--oneliner", "show", "job", task.name], check=True).stdout
    return {
        name: neutral(os.fsencode(value)) for name, value in parse_job(shown).items() if name not in _VOLATILE_FIELDS
    }


def _files(directory: Path, neutral: Callable[[bytes], str]) -> Iterator[tuple[str, str]]:
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        name = neutral(os.fsencode(path.relative_to(directory)))
        yield name, f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid} {_content(path, neutral)}"


def _content(path: Path, neutral: Callable[[bytes], str]) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if not path.is_file():
        return ""
    return neutral(path.read_bytes())


def _neutral(content: bytes, labels: Mapping[bytes, bytes]) -> str:
    content = _JOB_ID.sub(lambda match: labels.get(match[0].lstrip(b"0"), match[0]), content)
    for pattern, name in ((_NODE, b"<node>"), (_TIME, b"<time>"), (_SLUID, b"<sluid>"), (_WAY, b"<way>")):
        content = pattern.sub(name, content)
    return content.decode("latin-1")
