"""What the site does around each script: TaskProlog and TaskEpilog."""

from __future__ import annotations

from tests.e2e.cases.case import SHOW_ENVIRONMENT, Case, bash

TASK_PROLOG = r"""#!/bin/bash
case "$PROLOG" in
speaks)
    echo "print from the prolog"
    echo "print   with blanks  "
    echo "export ADDED=one two"
    echo "export CHANGED=after"
    echo "export  EMPTY="
    echo "unset REMOVED"
    echo "something else"
    echo "to standard error" >&2
    ;;
looks)
    echo "print $(id -un) $PWD $SLURM_JOB_NAME $0 $# $(umask) $(ulimit -Sn)"
    echo "print $(readlink /proc/self/fd/0) $(ps -o pgid= -p $$ | grep -cw $$)"
    ;;
fails) echo "print before its failure"; exit 3 ;;
dies) echo "print before its end"; kill -KILL $$ ;;
lingers) sleep 300 >/dev/null 2>&1 & echo "print left something behind" ;;
esac
"""
TASK_EPILOG = r"""#!/bin/bash
[ -z "$EPILOG" ] || echo "$(id -un) $PWD $SLURM_JOB_NAME $ADDED" >"$EPILOG"
"""
_WAYS = ("speaks", "looks", "fails", "dies", "lingers")

CASES = (
    *(
        Case(
            f"task-prolog-that-{way}",
            bash(SHOW_ENVIRONMENT),
            environment={"PROLOG": way, "REMOVED": "1", "CHANGED": "before", "LD_LIBRARY_PATH": "/x"},
        )
        for way in _WAYS
    ),
    Case(
        "task-epilog",
        bash("exit 4"),
        session="PROLOG=speaks EPILOG=$PWD/epilog sbatch --wait job.sh\n",
    ),
)
