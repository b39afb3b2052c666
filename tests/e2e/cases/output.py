"""Where output goes and what may be in it."""

from __future__ import annotations

from tests.e2e.cases.case import Case, bash

_BOTH = bash("for i in $(seq 200); do echo out $i; echo err $i >&2; done")
_NAMES = bash("echo out; echo err >&2")

CASES = (
    Case("silent", bash(":")),
    Case("joined-streams-keep-their-order", _BOTH),
    Case("separate-streams", _BOTH, options=("--output=out", "--error=err")),
    Case("streams-joined-by-one-name", _BOTH, options=("--output=both", "--error=both")),
    Case("only-errors-apart", _NAMES, options=("--error=err",)),
    Case("binary-without-final-newline", bash("head -c 1000000 /dev/zero; printf '\\377\\376\\r\\n\\0end'")),
    Case("every-byte", "#!/usr/bin/python3\nimport os\nos.write(1, bytes(range(256)) * 3)\n"),
    Case("one-long-line", bash("head -c 5000000 /dev/zero | tr '\\0' x")),
    Case("many-single-bytes", bash("for i in {1..3000}; do printf .; done")),
    Case("output-after-silence", bash("echo first; sleep 3; echo last")),
    Case("output-in-the-last-instant", bash("(sleep 0.05; echo late) & echo early; wait; printf end")),
    Case(
        "output-of-a-process-substitution", bash("echo through > >(cat); wait; echo 1 | tee >(sed s/1/2/) >/dev/null")
    ),
    Case("standard-error-closed", bash("exec 2>&-; ls /nowhere; echo $?; echo lost >&2; echo $?")),
    Case("standard-output-closed", bash("exec >&-; echo lost; echo $? >&2; echo found >&2")),
    Case("both-closed", bash("exec >&- 2>&-; sleep 0.2; exit 6")),
    Case("appends-to-dev-stdout", bash("echo 1; echo 2 >>/dev/stdout; echo 3 >>/dev/stderr; echo 4 >>/dev/fd/1")),
    Case("tee-to-dev-stderr", bash("echo 1 | tee -a /dev/stderr; echo 2 >&2")),
    Case("broken-pipe-is-a-signal", bash("yes | head -n 1; echo ${PIPESTATUS[0]}")),
    Case(
        "python-flushes-at-its-end", "#!/usr/bin/python3\nprint('x' * 100)\nimport sys\nprint('e', file=sys.stderr)\n"
    ),
    # In one frame: Python 3.13 underlines calls, and the site may have another Python than the cluster.
    Case("python-traceback", "#!/usr/bin/python3\nif True:\n    raise ValueError('naïve')\n"),
    Case("named-pipe", bash("d=$(mktemp -d); mkfifo $d/p; cat $d/p & echo through >$d/p; wait; rm -r $d")),
    Case("output-pattern-of-a-job", _NAMES, options=("--output=%x %u %j %J %A %n %t %s %N.out", "--job-name=n m")),
    Case("output-pattern-with-a-width", _NAMES, options=("--output=%10j-%5t.out", "--error=%%-%4a")),
    Case("output-pattern-escaped", _NAMES, options=("--output=a\\%j.out",)),
    Case("output-pattern-of-an-array", _NAMES, options=("--array=1,3", "--output=%A_%a-%4a.out", "--error=%a.err")),
    Case("output-of-an-array-by-default", _NAMES, options=("--array=0-2",)),
    Case("output-to-dev-null", _NAMES, options=("--output=/dev/null",)),
    Case("output-to-none", _NAMES, options=("--output=none",)),
    Case("output-below-a-directory", _NAMES, session="mkdir -p a/b; sbatch --output=a/b/%x.out -J n job.sh\n"),
    Case("output-below-a-missing-directory", _NAMES, options=("--output=nowhere/out",)),
    Case("output-to-a-directory", _NAMES, session="mkdir out; sbatch --output=out job.sh\n"),
    Case(
        "output-where-writing-is-forbidden", _NAMES, session="touch out; chmod 0444 out; sbatch --output=out job.sh\n"
    ),
    Case("error-where-writing-is-forbidden", _NAMES, options=("--error=/root/err",)),
    Case("output-appended", _NAMES, options=("--output=out", "--open-mode=append"), files={"out": "before\n"}),
    Case("output-truncated", _NAMES, options=("--output=out", "--open-mode=truncate"), files={"out": "before" * 99}),
    Case("output-as-the-site-opens-it", _NAMES, options=("--output=out",), files={"out": "before\n"}),
    Case("output-through-a-symlink", _NAMES, session="ln -s target out; sbatch --output=out job.sh\n"),
    Case(
        "output-to-a-fifo",
        bash("for i in $(seq 2000); do echo line $i; done"),
        session="mkfifo pipe; sbatch --output=pipe job.sh; sha256sum <pipe; rm pipe\n",
    ),
    Case("umask-of-the-output-file", _NAMES, prelude="umask 0077", options=("--output=out",)),
)
