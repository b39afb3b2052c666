"""The probe job: submitted with `--overspill=always`, watched from Slurm, the relay and its own output file."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from overspill.errors import OverspillError, UnavailableError
from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.cluster import Job
from overspill_sidecar.commands.cluster import Cluster, find_jobs

_LOOK_EVERY_S = 0.02
_ASK_EVERY_S = 0.2
_COMMAND_S = 30.0
#: Says that it runs, waits for one signal, says that it came, and ends with a number that is nobody else's.
_SCRIPT = """\
#!/bin/sh
trap 'echo signalled; exit 7' USR1
echo started on $(hostname)
n=0
while [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done
"""
_EXIT_CODE = 7


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the way.

    Attributes:
        took_s: since the hop before; None where only that it was passed is known.
        remedy: what to look at, where it was not reached.
    """

    name: str
    is_reached: bool
    took_s: float | None = None
    says: str = ""
    remedy: str = ""


class _StoppedError(Exception):
    """The probe got no further; carries the hop."""

    def __init__(self, hop: Hop) -> None:
        super().__init__(hop.name)
        self.hop = hop


class Probe:
    """One job. `run` yields hops as they are passed; `clean_up` leaves neither job nor file."""

    def __init__(
        self,
        here: Cluster,
        partition: str | None,
        user: pwd.struct_passwd,
        account: str | None,
        timeout_s: float,
    ) -> None:
        """Prepare the probe.

        Args:
            here: the cluster.
            partition: of the site that is meant; None: the router chooses, as for any job.
            user: whose job it is.
            account: its account, None for the user's default.
            timeout_s: what one hop may take.

        Raises:
            UnavailableError: if the user's home cannot be written to.
        """
        self.job_id: int | None = None
        self.hops: list[Hop] = []
        self._here = here
        self._user = user
        self._account = account
        self._target = f"--partition={partition}" if partition else "--overspill=always"
        self._timeout_s = timeout_s
        self._directory = self._made_directory()
        self._began_at = self._at = time.time()

    @property
    def is_well(self) -> bool:
        return bool(self.hops) and all(hop.is_reached for hop in self.hops)

    @property
    def took_s(self) -> float:
        return self._at - self._began_at

    def run(self) -> Iterator[Hop]:
        """Send it and follow it until its end, or until a hop that it does not pass."""
        steps = (self._submit, self._wait_for_start, self._hand_over, self._wait_for_output, self._signal, self._end)
        try:
            for step in steps:
                for hop in step():
                    self.hops.append(hop)
                    yield hop
        except _StoppedError as stop:
            self.hops.append(stop.hop)
            yield stop.hop

    def clean_up(self) -> None:
        """Cancel what has not ended and remove the directory."""
        if self.job_id is not None and not self.is_well:
            subprocess.run(["scancel", str(self.job_id)], capture_output=True, timeout=_COMMAND_S, check=False)
        self._as_user(["rm", "-rf", "--", str(self._directory)])

    # The steps, in order

    def _submit(self) -> Iterator[Hop]:
        argv = ["sbatch", "--parsable", self._target, "--job-name=overspill-doctor", "--ntasks=1", "--time=2"]
        argv += [f"--output={self._output}", f"--chdir={self._directory}", "--no-requeue"]
        argv += [f"--account={self._account}"] if self._account else []
        self._began_at = self._at = time.time()
        done = self._as_user(argv, _SCRIPT)
        if done.returncode:
            remedy = "sbatch must take a plain job of this user: --account NAME, or another --user"
            if "--overspill" in done.stderr:
                remedy = "sbatch does not know --overspill: plugstack.conf on this host must name spank_overspill.so"
            raise _StoppedError(Hop("sbatch", is_reached=False, says=_first_line(done.stderr), remedy=remedy))
        self.job_id = int(done.stdout.strip().partition(";")[0])
        yield self._passed("sbatch, with the hook in slurmctld", time.time(), f"job {self.job_id}")
        job = self._job()
        if not set(self._here.site_by_partition) & set(job.partitions):
            raise _StoppedError(self._not_diverted(job))
        decision = self._decision(job)
        if decision is not None:
            yield Hop("the router decided", is_reached=True, says=f"{decision.verdict}, {decision.reason}")

    def _wait_for_start(self) -> Iterator[Hop]:
        def has_started() -> bool:
            return not self._job().is_pending

        if not self._wait(has_started, _ASK_EVERY_S):
            says = f"the job is still pending: {self._job().reason}"
            remedy = (
                f"scontrol show job, sinfo -p {','.join(self._job().partitions)}: are the virtual nodes up and free?"
            )
            raise _StoppedError(Hop("Slurm allocates a virtual node", is_reached=False, says=says, remedy=remedy))
        yield self._passed("Slurm allocated a virtual node", time.time(), self._job().nodes)

    def _hand_over(self) -> Iterator[Hop]:
        """Follow the relay's events, where we may see them."""
        if not self._may_see_events():
            return
        steps = (
            (
                "proxy_admitted",
                "",
                "the proxy called the relay",
                "slurmd's log on the virtual node: SPANK, proxy, socket",
            ),
            (
                "run_accepted",
                "",
                "the site stored the run",
                "overspill check: the agent, its certificate, the user's account",
            ),
            ("run_state", "RUNNING", "the site's runner started", "the agent's log: its back end cannot start runs"),
        )
        for action, state, name, remedy in steps:
            event = self._event(action, state)
            if event is None:
                last = self._last_event()
                raise _StoppedError(Hop(name, is_reached=False, says=last, remedy=f"look at {remedy}"))
            yield self._passed(name, event.at_ms / 1000)

    def _wait_for_output(self) -> Iterator[Hop]:
        if not self._wait(lambda: "\n" in self._text(), _LOOK_EVERY_S):
            remedy = (
                "overspill logs --events; is the job's directory on a file system that the virtual node's host has?"
            )
            says = f"nothing is in {self._output} ({self._last_event()})"
            raise _StoppedError(Hop("first line in the output file", is_reached=False, says=says, remedy=remedy))
        yield self._passed("first line in the output file", time.time(), _first_line(self._text()))

    def _signal(self) -> Iterator[Hop]:
        done = self._as_user(["scancel", "--batch", "--signal=USR1", str(self.job_id)])
        if done.returncode or not self._wait(lambda: "signalled" in self._text(), _LOOK_EVERY_S):
            says = _first_line(done.stderr) or "the script's handler did not run"
            raise _StoppedError(
                Hop("signal, there and back", is_reached=False, says=says, remedy="see both sides' logs")
            )
        yield self._passed("signal, there and back", time.time())

    def _end(self) -> Iterator[Hop]:
        def is_over() -> bool:
            job = self._job()
            return not (job.is_pending or job.is_active)

        if not self._wait(is_over, _ASK_EVERY_S):
            says = f"the job is {self._job().state}"
            raise _StoppedError(Hop("the job's end", is_reached=False, says=says, remedy="see the relay's log"))
        job = self._job()
        if job.state != "FAILED":
            says = f"Slurm has it as {job.state}, it should be FAILED with exit code {_EXIT_CODE}"
            raise _StoppedError(Hop("the job's end", is_reached=False, says=says, remedy="overspill logs --events"))
        yield self._passed("the job's end, in Slurm", time.time(), f"exit code {_EXIT_CODE}, as it should be")

    # What they need

    @property
    def _output(self) -> Path:
        return self._directory / "output"

    def _text(self) -> str:
        """Return what is in the output file, read with its owner's rights."""
        ours = os.geteuid()
        os.seteuid(self._user.pw_uid)
        try:
            return self._output.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        finally:
            os.seteuid(ours)

    def _passed(self, name: str, at: float, says: str = "") -> Hop:
        took = max(0.0, at - self._at)
        self._at = max(self._at, at)
        return Hop(name, is_reached=True, took_s=took, says=says)

    def _made_directory(self) -> Path:
        """Make a directory in the user's home, which the virtual node's host sees, too; root may have no rights there.

        Raises:
            UnavailableError: if it cannot be made.
        """
        home = self._user.pw_dir
        made = self._as_user(["mktemp", "--directory", f"{home}/overspill-doctor-XXXXXX"])
        if made.returncode:
            raise UnavailableError(f"{self._user.pw_name} cannot write in his home: {_first_line(made.stderr)}")
        return Path(made.stdout.strip())

    def _as_user(self, argv: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command with the rights of the probe's user."""
        other = None if os.geteuid() == self._user.pw_uid else self._user
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
            cwd="/",
            user=other.pw_uid if other else None,
            group=other.pw_gid if other else None,
            extra_groups=os.getgrouplist(other.pw_name, other.pw_gid) if other else None,
        )

    def _job(self) -> Job:
        found = find_jobs(str(self.job_id))
        if not found:
            hop = Hop(
                "Slurm knows the job", is_reached=False, says=f"job {self.job_id} is gone", remedy="who removed it?"
            )
            raise _StoppedError(hop)
        return found[0]

    def _not_diverted(self, job: Job) -> Hop:
        says = f"the job stayed in {','.join(job.partitions)}"
        decisions = self._alike()
        if decisions:
            says += f": {decisions[0].reason}"
        remedy = f"overspill explain {self.job_id} says why; overspill check, what is misconfigured"
        return Hop("the router diverts it", is_reached=False, says=says, remedy=remedy)

    def _alike(self) -> list[pb.DecisionRecord]:
        request = pb.ListDecisionsRequest(user_id=self._user.pw_uid, from_ms=int(self._began_at * 1000) - 1000)
        try:
            return self._here.daemons.decisions(request)
        except OverspillError:
            return []

    def _decision(self, job: Job) -> pb.DecisionRecord | None:
        if job.trail is None:
            return None
        return next((it for it in self._alike() if it.decision_id == job.trail.decision_id), None)

    def _may_see_events(self) -> bool:
        try:
            self._here.daemons.relay_status()
        except OverspillError:
            return False
        return True

    def _event(self, action: str, state: str) -> pb.JobEvent | None:
        """Wait for an event; None if it does not come."""
        found: list[pb.JobEvent] = []

        def is_there() -> bool:
            events = self._here.daemons.events(self.job_id or 0)
            found[:] = [it for it in events if it.action == action and state in {"", it.details.get("state", "")}]
            return bool(found) or not self._job().is_active

        self._wait(is_there, _ASK_EVERY_S)
        return found[0] if found else None

    def _last_event(self) -> str:
        try:
            events = self._here.daemons.events(self.job_id or 0)
        except OverspillError:
            return f"the job is {self._job().state}"
        said = [f"{it.event} {it.details.get('reason', '')}".strip() for it in events]
        return f"the last that the relay knows: {said[-1]}" if said else "the relay has heard nothing of the job"

    def _wait(self, is_done: Callable[[], bool], interval_s: float) -> bool:
        give_up_at = time.monotonic() + self._timeout_s
        while not is_done():
            if time.monotonic() > give_up_at:
                return False
            time.sleep(interval_s)
        return True


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
