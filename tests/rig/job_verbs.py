"""What a test does with Slurm jobs: submit, look, wait, read the output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tests.rig.errors import JobStateError
from tests.rig.host import Host
from tests.rig.slurm_jobs import dead_end, parse_job
from tests.rig.waiting import poll

_OUTPUT_TAIL_BYTES = 2000


class JobVerbs:
    """The verbs, for a class that has the two hosts."""

    cluster: Host
    site: Host

    def sbatch(
        self,
        script: str | bytes,
        *options: str,
        user: str = "alice",
        arguments: Sequence[str] = (),
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Submit a script as `user` from `cwd` (default: the user's home) and return its job id.

        The script goes through sbatch's standard input, or, if it has `arguments`, a file `job.sh` in `cwd`.

        Raises:
            CommandError: if sbatch refuses; carries what it said.
        """
        argv = ["sbatch", "--parsable", *options]
        text = script if isinstance(script, str) else script.decode("utf-8", "surrogateescape")
        if arguments:
            directory = cwd if cwd is not None else f"/home/{user}"
            self.cluster.write(f"{directory}/job.sh", script, user=user)
            argv += ["job.sh", *arguments]
        submitted = self.cluster.run(argv, user=user, cwd=cwd, env=env, stdin="" if arguments else text, check=True)
        return int(submitted.stdout.strip())

    def job(self, job_id: int | str) -> dict[str, str]:
        """Return the fields of `scontrol show job`; `job_id` may name an array task ("12_3").

        Raises:
            CommandError: if Slurm does not know the job (any more).
        """
        shown = self.cluster.run(["scontrol", "--oneliner", "show", "job", str(job_id)], check=True)
        return parse_job(shown.stdout.splitlines()[0])

    def wait_for_state(
        self, job_id: int | str, states: str | Collection[str], timeout_s: float = 30.0
    ) -> dict[str, str]:
        """Wait until the job is in (one of) the states and return its fields.

        Raises:
            JobStateError: as soon as it cannot get there any more, or after `timeout_s`; says what happened to it.
        """
        wanted = frozenset({states} if isinstance(states, str) else states)
        job: dict[str, str] = {}

        def is_there() -> bool:
            job.clear()
            job.update(self.job(job_id))
            if reason := dead_end(job, wanted):
                raise JobStateError(self._story(job, f"cannot become {_either(wanted)}: {reason}"))
            return job["JobState"] in wanted

        if not poll(is_there, timeout_s=timeout_s, interval_s=0.05):
            raise JobStateError(self._story(job, f"is not {_either(wanted)} after {timeout_s} s"))
        return job

    def output(self, job_id: int | str) -> bytes:
        """Return what the job has written to its standard output so far."""
        return self._stream(self.job(job_id), "StdOut")

    def error_output(self, job_id: int | str) -> bytes:
        """Return what the job has written to its standard error so far; without --error, the same as `output`."""
        job = self.job(job_id)
        return self._stream(job, "StdErr" if job["StdErr"] else "StdOut")

    def _stream(self, job: dict[str, str], field: str) -> bytes:
        path = self.cluster.path(job[field])
        return path.read_bytes() if path.exists() else b""

    def _story(self, job: dict[str, str], what: str) -> str:
        """Return what is known about a job that went wrong."""
        record = "\n".join(f"  {name}={value}" for name, value in job.items())
        output = self._stream(job, "StdOut")[-_OUTPUT_TAIL_BYTES:].decode(errors="replace")
        concerned = {"slurmctld", "router", "relay", "agent", f"slurmd@{job.get('BatchHost')}"}
        daemons = [*self.cluster.daemons.values(), *self.site.daemons.values()]
        tails = [daemon.log_tail() for daemon in daemons if daemon.name in concerned]
        return "\n".join([f"job {job['JobId']} {what}", record, "--- its output", output, *tails])


def _either(states: Collection[str]) -> str:
    return " or ".join(sorted(states))
