"""The pool: a typed wrapper of `htcondor2`, which has no types, blocks, and keeps its settings in the process.

One thread owns it. What blocks there holds up the pool's other callers and nobody else: the bindings give up the
interpreter's lock while they wait (measured: a schedd that is stopped makes a query fail after 20 s).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from overspill.errors import AdminError, UnavailableError
from overspill_agent.backends.htcondor.ads import (
    AGENT,
    ATTEMPT,
    FORGOTTEN,
    INTRODUCTION,
    JOB_ATTRIBUTES,
    MACHINE_ATTRIBUTES,
    RUN,
    JobAd,
    MachineAd,
    Value,
    job_ad,
    machine_ad,
)
from overspill_agent.backends.htcondor.description import quoted
from overspill_agent.backends.htcondor.observing import OWN_REASON, can_be_repeated
from overspill_agent.backends.htcondor.refusals import is_owner_refused, meaning_of

log = structlog.get_logger(__name__)

T = TypeVar("T")
#: Slots that are not cut from another one: jobs are matched to these.
_WHOLE_SLOTS = 'SlotType =!= "Dynamic" && Offline =!= true'
_SESSION_REJECTED = "SECMAN:2004"
_MOST_REPEATS = 2
#: The schedd's own number for a reason; this project has none.
_NO_SUBCODE = 0


@dataclass(frozen=True, slots=True)
class Door:
    """How to get in; see `overspill_agent.config.Htcondor`."""

    collector: str
    schedd: str
    token_directory: Path
    agent_name: str


class Pool:
    """One agent's view of a pool. Every method raises what `refusals.meaning_of` says."""

    def __init__(self, door: Door) -> None:
        """Make the thread; nothing is contacted.

        Raises:
            AdminError: `htcondor2` is not installed.
        """
        try:
            import classad2  # noqa: PLC0415 - an optional dependency
            import htcondor2  # noqa: PLC0415
        except ImportError as error:
            raise AdminError(f"the HTCondor back end needs the Python package htcondor: {error}") from error
        self._htcondor: Any = htcondor2
        self._undefined = (classad2.Value.Undefined, classad2.Value.Error)
        self._expression: Any = classad2.ExprTree
        self._door = door
        self._location: Any = None
        self._sent: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="htcondor")
        self._set_up()

    async def jobs(self) -> list[JobAd]:
        """Return every job of this agent's that it has not forgotten."""
        return await self._call("cannot ask the schedd for jobs", lambda: self._jobs("true"))

    async def machines(self, constraint: str = "true") -> list[MachineAd]:
        """Return the slots that satisfy an expression over their own attributes."""
        return await self._call("cannot ask the collector for machines", lambda: self._machines(constraint))

    async def submit(self, description: Mapping[str, str], run_id: str, attempt: int, owner: str) -> JobAd:
        """Submit the job of an attempt, or find it. Jobs of the run's other attempts are removed.

        In two steps, because the answer to a submission can be lost: the job is first a row at the schedd, found again
        by its key, and cannot run before its files are there.

        Raises:
            AdminError: the schedd does not let the agent, or gives the job to somebody else; nothing is left of it.
        """
        return await self._call("cannot submit a job", lambda: self._submit(dict(description), run_id, attempt, owner))

    async def remove(self, run_id: str, attempt: int | None = None, *, why: str) -> None:
        """Have jobs killed and removed. Nothing happens where there is none, or it has ended."""
        constraint = _of(run_id, attempt)
        await self._call("cannot remove a job", lambda: self._remove(constraint, why))

    async def forget(self, run_id: str) -> None:
        """Have the schedd drop the run's jobs, and kill what has not ended."""
        await self._call("cannot forget a job", lambda: self._forget(_of(run_id, None)))

    async def close(self) -> None:
        """Wait for the call that is under way, and end the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    # On the thread

    def _set_up(self) -> None:
        """Let in nothing of this host's own HTCondor, if there is one: who the agent is, is in agent.toml."""
        param = self._htcondor.param
        param["SEC_TOKEN_DIRECTORY"] = str(self._door.token_directory)
        for name in ("SEC_CLIENT_AUTHENTICATION_METHODS", "SEC_DEFAULT_AUTHENTICATION_METHODS"):
            param[name] = "IDTOKENS"
        for name in ("AUTHENTICATION", "ENCRYPTION", "INTEGRITY"):
            param[f"SEC_CLIENT_{name}"] = "REQUIRED"
        # A collector that was down is asked again at once, not avoided for as long as it did not answer.
        param["DEAD_COLLECTOR_MAX_AVOIDANCE_TIME"] = "0"

    async def _call(self, what: str, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, what, work)

    def _guarded(self, what: str, work: Callable[[], T]) -> T:
        """Do something; again if the schedd may only have been restarted.

        It then has another address, and does not know the session any more that the bindings had with it; they make a
        new one after they were told so.
        """
        repeats = 0
        while True:
            had_location = self._location is not None
            try:
                return work()
            except self._htcondor.HTCondorException as error:
                self._location = None
                message = " ".join(str(error).split())
                meaning = meaning_of(message, what, self._door.token_directory)
                may_be_restarted = had_location or _SESSION_REJECTED in message
                if repeats == _MOST_REPEATS or not (may_be_restarted and isinstance(meaning, UnavailableError)):
                    raise meaning from error
                repeats += 1

    def _collector(self) -> Any:
        return self._htcondor.Collector(self._door.collector)

    def _schedd(self) -> Any:
        """Return the schedd, which is looked for once; while it can be reached, the collector may be away."""
        if self._location is None:
            wanted = f"Name == {quoted(self._door.schedd)}"
            names = ["MyAddress", "CondorVersion", "Name"]
            found = self._collector().query(self._htcondor.AdType.Schedd, wanted, names)
            if not found:
                raise UnavailableError(
                    f"the pool of {self._door.collector} has no schedd {self._door.schedd!r} now; is it up?"
                    " `condor_status -schedd` shows the names"
                )
            self._location = found[0]
        return self._htcondor.Schedd(self._location)

    def _jobs(self, constraint: str) -> list[JobAd]:
        mine = f"{AGENT} == {quoted(self._door.agent_name)} && {FORGOTTEN} =!= true"
        found = self._schedd().query(f"{mine} && ({constraint})", list(JOB_ATTRIBUTES))
        jobs = [job_ad(self._values(ad, JOB_ATTRIBUTES)) for ad in found]
        return [replace(job, is_staged=True) if job.condor_job_id in self._sent else job for job in jobs]

    def _machines(self, constraint: str) -> list[MachineAd]:
        wanted = f"{_WHOLE_SLOTS} && ({constraint})"
        found = self._collector().query(self._htcondor.AdType.Startd, wanted, list(MACHINE_ATTRIBUTES))
        return [machine_ad(self._values(ad, MACHINE_ATTRIBUTES)) for ad in found]

    def _submit(self, description: dict[str, str], run_id: str, attempt: int, owner: str) -> JobAd:
        for job in self._jobs(_of(run_id, None)):
            if job.attempt == attempt and not can_be_repeated(job):
                return job
            self._remove(_by_id(job), "another attempt takes over")
            self._drop(_by_id(job))
        schedd = self._schedd()
        result = self._put(schedd, description)
        mine = self._jobs(f"ClusterId == {result.cluster()}")
        if len(mine) != 1 or mine[0].owner != owner:
            self._remove(f"ClusterId == {result.cluster()}", "the schedd gave it to another user")
            given = ", ".join(job.owner for job in mine) or "nobody"
            raise AdminError(
                f"the schedd gave a job of {owner!r} to {given!r}; let QUEUE_SUPER_USER_MAY_IMPERSONATE on the access"
                f" point match {owner}@UID_DOMAIN, and map no account to a name that HTCondor has for itself"
            )
        try:
            schedd.spool(result)
        except self._htcondor.HTCondorException:
            # Without its files it never runs; should it have them after all, it must not: nobody knows of it.
            self._remove(f"ClusterId == {result.cluster()}", "its files could not be sent")
            raise
        self._sent.add(mine[0].condor_job_id)
        return mine[0]

    def _put(self, schedd: Any, description: dict[str, str]) -> Any:
        submit = self._htcondor.Submit(description)
        try:
            return schedd.submit(submit, spool=True)
        except self._htcondor.HTCondorException as error:
            if not is_owner_refused(str(error)):
                raise
        self._introduce(schedd)
        return schedd.submit(submit, spool=True)

    def _introduce(self, schedd: Any) -> None:
        """Have the schedd make a record of this agent as a user.

        It does not take somebody for a super user who has never submitted anything (seen with 23.9). The job has no
        files, so it cannot run.
        """
        log.info("agent introduces itself to the schedd", action="schedd_introduction", schedd=self._door.schedd)
        nothing = {"universe": "vanilla", "executable": "/bin/true", "transfer_executable": "false"}
        schedd.submit(self._htcondor.Submit({**nothing, f"+{INTRODUCTION}": quoted(self._door.agent_name)}), spool=True)
        self._act(f"{INTRODUCTION} == {quoted(self._door.agent_name)}", "an introduction")

    def _remove(self, constraint: str, why: str) -> None:
        mine = f"{AGENT} == {quoted(self._door.agent_name)} && JobStatus != 3 && JobStatus != 4"
        self._act(f"{mine} && ({constraint})", why)

    def _act(self, constraint: str, why: str) -> None:
        """Remove jobs. A constraint that matches none is no error, a refusal is."""
        remove = self._htcondor.JobAction.Remove
        done = self._schedd().act(remove, constraint, reason=(f"{OWN_REASON} {why}", _NO_SUBCODE))
        refused = int(done["TotalPermissionDenied"]) + int(done["TotalError"]) if done is not None else 0
        if refused:
            raise AdminError(
                "the schedd does not let the agent remove its runs' jobs; QUEUE_SUPER_USERS on the access point must"
                " hold its identity"
            )

    def _forget(self, constraint: str) -> None:
        self._remove(constraint, "the run is over")
        self._sent -= {job.condor_job_id for job in self._jobs(constraint)}
        self._drop(constraint)

    def _drop(self, constraint: str) -> None:
        """Have jobs leave the queue once they have ended; the schedd looks every minute or so."""
        mine = f"{AGENT} == {quoted(self._door.agent_name)} && {FORGOTTEN} =!= true && ({constraint})"
        if self._schedd().query(mine, ["ClusterId"]):
            self._schedd().edit(mine, FORGOTTEN, "true")

    def _values(self, ad: Any, names: Iterable[str]) -> dict[str, Value]:
        """Return the attributes that have a plain value. Undefined ones come as a value of their own, equal to 2."""
        values: dict[str, Value] = {}
        for name in names:
            value = ad.get(name)
            if isinstance(value, self._expression):
                value = value.eval()
            is_plain = isinstance(value, str | int | float | bool)
            if is_plain and not any(value is undefined for undefined in self._undefined):
                values[name] = value
        return values


def _of(run_id: str, attempt: int | None) -> str:
    run = f"{RUN} == {quoted(run_id)}"
    return run if attempt is None else f"{run} && {ATTEMPT} == {attempt}"


def _by_id(job: JobAd) -> str:
    cluster, _, proc = job.condor_job_id.partition(".")
    return f"ClusterId == {cluster} && ProcId == {proc}"
