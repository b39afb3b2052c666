"""Scripts whose diverted run must equal the one on `batch`, byte for byte.

A case is data: what is submitted and how. `test_comparison.py` runs each both ways on the real Slurm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Variables that name the node, the partition or the attempt: they differ between any two local jobs, too.
PLACE_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_JOBID",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_NODELIST",
    "SLURM_NODELIST",
    "SLURMD_NODENAME",
    "HOSTNAME",
    "SLURM_TOPOLOGY_ADDR",
    "SLURM_TASK_PID",
    "SLURM_JOB_START_TIME",
    "SLURM_JOB_END_TIME",
    "SLURM_SPANK__SLURM_SPANK_OPTION_overspill_overspill",
)


@dataclass(frozen=True)
class Case:
    """One script and the way it is submitted."""

    name: str
    script: str | bytes
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    #: Shell lines that run before sbatch in the submitting shell: umask, ulimit, cd.
    prelude: str = ""
    #: Content of `stdin.bin` in the submit directory, used with `--input=stdin.bin`.
    stdin: bytes | None = None
    has_separate_stderr: bool = False


def _bash(body: str) -> str:
    return f"#!/bin/bash\n{body}\n"


_SHOW_ENVIRONMENT = "env -0 | sort -z | tr '\\n\\0' '~\\n' | grep -vE '^(" + "|".join(PLACE_VARIABLES) + ")='"

CASES = (
    Case(
        "arguments",
        _bash('printf "[%s]" "$#" "$@"; echo; basename "$0"'),
        arguments=("one two", "", "it's", 'double "quotes"', "back\\slash", "new\nline", "ünïcødé", "*", "$HOME", "-n"),
    ),
    Case("python-shebang", "#!/usr/bin/python3 -u\nimport sys\nprint(sys.argv[1:])\nsys.exit(5)\n", ("a b",)),
    Case(
        "environment",
        _bash(_SHOW_ENVIRONMENT),
        environment={
            "MULTI_LINE": "first\nsecond\n",
            "EMPTY": "",
            "NOT_ASCII": "naïve 東京",
            "LONG": "x" * 100_000,
            "LD_LIBRARY_PATH": "/opt/nowhere/lib",
            "PYTHONPATH": "/opt/nowhere/python",
            "PYTHONHOME": "/opt/nowhere",
            "LC_ALL": "C",
        },
    ),
    Case("export-none", _bash(_SHOW_ENVIRONMENT), options=("--export=NONE",), environment={"HIDDEN": "1"}),
    Case(
        "working-directory-and-umask",
        _bash(
            'pwd; pwd -P; echo "$SLURM_SUBMIT_DIR"; umask; touch made-here; stat -c "%a %U %G" made-here; rm made-here'
        ),
        prelude="umask 0027",
    ),
    Case("ulimits", _bash("ulimit -Sa; ulimit -Ha"), prelude="ulimit -Sn 777; ulimit -Sc 0; ulimit -Ss 4096"),
    Case("standard-input", _bash("sha256sum; wc -c"), options=("--input=stdin.bin",), stdin=bytes(range(256)) * 4096),
    Case("no-standard-input", _bash("readlink /proc/self/fd/0; wc -c")),
    Case(
        "separate-streams",
        _bash("for i in $(seq 200); do echo out $i; echo err $i >&2; done"),
        has_separate_stderr=True,
    ),
    Case("joined-streams-keep-their-order", _bash("for i in $(seq 200); do echo out $i; echo err $i >&2; done")),
    Case("exit-code", _bash("echo leaving; exit 37")),
    Case("killed-by-segv", _bash("echo before; kill -SEGV $$; echo never")),
    Case("killed-by-kill", _bash("echo before; kill -KILL $$; echo never")),
    Case("killed-by-usr1", _bash("echo before; kill -USR1 $$; echo never")),
    Case("left-behind-background-process", _bash("sleep 300 & (setsid sleep 301 &) ; echo done")),
    Case("binary-output-without-final-newline", _bash("head -c 1000000 /dev/zero; printf '\\377\\376\\r\\n\\0end'")),
    Case("identity", _bash("id -u; id -g; id -G; id -un; id -gn; echo ~; whoami; echo $USER $HOME $LOGNAME")),
    Case("silent", _bash(":")),
    Case("broken-pipe-is-a-signal", _bash("yes | head -n 1; echo ${PIPESTATUS[0]}")),
    Case("array-task", _bash("echo $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT"), options=("--array=3",)),
)
