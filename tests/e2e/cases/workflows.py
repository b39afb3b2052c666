"""What users do with several jobs, and with a job while it waits or runs."""

from __future__ import annotations

from tests.e2e.cases.case import Case, bash

#: Waits without a child, whose death by the same signal bash would notice sooner or later than its own.
_READY = "exec 3<> <(:); echo ready; while :; do read -rt 60 -u 3; done"
_RESTARTS = bash(f'echo "attempt ${{SLURM_RESTART_COUNT:-first}}"; [ "$SLURM_RESTART_COUNT" = 1 ] && exit 5; {_READY}')
_TRAP = "trap 'echo caught {name}; exit {code}' {name}\n" + _READY


def _dependency(kind: str, parent: str, *, fires: bool) -> Case:
    """A child that depends on a parent that runs `parent`."""
    end = "" if fires else "until_reason $child DependencyNeverSatisfied; scancel $child\n"
    return Case(
        f"{kind}-of-{'success' if parent == 'exit 0' else 'failure'}",
        session=f"parent=$(sbatch --parsable --output=parent --wrap='sleep 1; echo parent; {parent}')\n"
        f"child=$(sbatch --parsable --output=child --dependency={kind}:$parent --wrap='echo child')\n" + end,
    )


def _cancelled(name: str, script: str, commands: str) -> Case:
    """A job that something happens to once it has printed `ready`."""
    return Case(name, bash(script), session=f"sbatch --output=out job.sh; until_said out ready; {commands}\n")


CASES = (
    _dependency("afterok", "exit 0", fires=True),
    _dependency("afterok", "exit 1", fires=False),
    _dependency("afternotok", "exit 1", fires=True),
    _dependency("afternotok", "exit 0", fires=False),
    _dependency("afterany", "exit 1", fires=True),
    Case(
        "after-begin",
        session="a=$(sbatch --parsable -o a --wrap='sleep 2; echo a')\nsbatch -o b -d after:$a --wrap='echo b'\n",
    ),
    Case(
        "afterok-of-several-and-a-chain",
        session='for i in 1 2 3; do ids+=:$(sbatch --parsable -o p$i --wrap="echo $i"); done\n'
        "join=$(sbatch --parsable -o join -d afterok$ids --wrap='echo joined')\n"
        "sbatch -o last -d afterok:$join --wrap='echo last'\n",
    ),
    Case(
        "afternotok-of-a-signal",
        session="a=$(sbatch --parsable -o a --wrap='kill -SEGV $$')\nsbatch -o b -d afternotok:$a --wrap='echo b'\n",
        prelude="ulimit -c 0",
    ),
    Case(
        "aftercorr-over-arrays",
        session="a=$(sbatch --parsable -a 1-3 -o a%a --wrap='sleep 1; exit $((SLURM_ARRAY_TASK_ID == 2))')\n"
        "b=$(sbatch --parsable -a 1-3 -o b%a -d aftercorr:$a --wrap='echo child $SLURM_ARRAY_TASK_ID')\n"
        "until_reason ${b}_2 DependencyNeverSatisfied; scancel ${b}_2\n",
    ),
    Case(
        "afterok-of-an-array-with-a-failure",
        session="a=$(sbatch --parsable -a 1-3 -o a%a --wrap='sleep 1; exit $((SLURM_ARRAY_TASK_ID == 2))')\n"
        "b=$(sbatch --parsable -o b -d afterok:$a --kill-on-invalid-dep=yes --wrap='echo b')\n"
        "sbatch -o c -d afterany:$a --wrap='echo c'\n",
    ),
    Case(
        "singleton",
        session="sbatch -o order --open-mode=append -J single --wrap='sleep 2; echo 0'\n"
        'for i in 1 2; do sbatch -o order --open-mode=append -J single -d singleton --wrap="echo $i"; done\n',
    ),
    Case(
        "array-with-one-failing-task",
        bash("echo $SLURM_ARRAY_TASK_ID; exit $((SLURM_ARRAY_TASK_ID == 2))"),
        options=("--array=1-3",),
    ),
    Case(
        "array-of-odd-indices",
        bash("echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT"),
        options=("--array=1,5-9:2,30%2",),
    ),
    Case(
        "array-task-cancelled",
        bash("echo ready $SLURM_ARRAY_TASK_ID; [ $SLURM_ARRAY_TASK_ID = 2 ] && exec sleep 60; exit 0"),
        session="a=$(sbatch --parsable -a 1-3 -o %a.out job.sh); until_said 2.out ready; scancel ${a}_2\n",
    ),
    Case(
        "requeued-and-truncated",
        _RESTARTS,
        session="sbatch --requeue --open-mode=truncate -o out job.sh; until_said out ready; again $(last_job)\n",
    ),
    Case(
        "requeued-and-appended",
        _RESTARTS,
        session="sbatch --requeue --open-mode=append -o out job.sh; until_said out ready; again $(last_job)\n",
    ),
    Case(
        "requeue-forbidden",
        _RESTARTS,
        session="sbatch --no-requeue -o out job.sh; until_said out ready\n"
        "scontrol requeue $(last_job); echo $?; scancel $(last_job)\n",
    ),
    Case(
        "array-task-held-and-released",
        bash("echo $SLURM_ARRAY_TASK_ID; sleep 1"),
        session="a=$(sbatch --parsable -a 1-2%1 job.sh); until_said slurm-${a}_1.out 1\n"
        "scontrol hold ${a}_2; until_reason ${a}_2 JobHeldUser\n"
        "scontrol update job=${a}_2 name=other comment=held; scontrol release ${a}_2\n",
    ),
    Case(
        "held-and-cancelled", bash("echo ran"), session="sbatch --hold job.sh; scancel $(last_job)\n", is_diverted=False
    ),
    _cancelled(
        "renamed-while-it-runs",
        "echo ready; sleep 2; echo $SLURM_JOB_NAME",
        "scontrol update job=$(last_job) name='new name' comment='new one'",
    ),
    _cancelled(
        "time-limit-lowered-while-it-runs", "echo ready; sleep 2", "scontrol update job=$(last_job) timelimit=2"
    ),
    _cancelled("cancelled", _READY, "scancel $(last_job)"),
    _cancelled("cancelled-with-a-trap", _TRAP.format(name="TERM", code=3), "scancel $(last_job)"),
    _cancelled("cancelled-by-name", _READY, "scancel --name=job.sh --state=RUNNING --me $(last_job)"),
    _cancelled("cancelled-with-kill", _READY, "scancel --signal=KILL --full $(last_job)"),
    _cancelled(
        "signalled-and-survived", "trap 'echo got USR1; exit 0' USR1\n" + _READY, "scancel --batch -s USR1 $(last_job)"
    ),
    _cancelled("signalled-and-ended-by-it", _READY, "scancel --batch -s USR2 $(last_job)"),
    _cancelled("cancelled-while-term-is-ignored", "trap '' TERM\n" + _READY, "scancel $(last_job)"),
    _cancelled(
        "cancelled-twice",
        "trap 'echo caught; sleep 0.5; exit 1' TERM\n" + _READY,
        "scancel $(last_job); scancel $(last_job)",
    ),
    Case("cancelled-after-its-end", bash("exit 3"), session="sbatch --wait job.sh; scancel $(last_job); echo $?\n"),
    Case("a-job-that-cancels-itself", bash("echo before; exec kill -TERM $$")),
    Case(
        "looked-at-while-it-runs",
        bash("echo ready; sleep 2"),
        session="sbatch -o out job.sh; until_said out ready; squeue -h -j $(last_job) -o '%T %j %u %C %m %l %D %r'\n"
        "scontrol show job $(last_job) | grep -oE '(JobState|Command|WorkDir|StdOut|NumCPUs|Requeue)=.*'\n",
    ),
)
