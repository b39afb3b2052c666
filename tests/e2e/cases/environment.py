"""What a script finds: variables, limits, working directory, identity, descriptors."""

from __future__ import annotations

from tests.e2e.cases.case import SHOW_ENVIRONMENT, Case, bash

_SHOW = bash(SHOW_ENVIRONMENT)
_SOME = {"ONE": "1", "TWO": "zwei", "HIDDEN": "x"}
_MEMORY = "--mem=300"

CASES = (
    Case(
        "environment",
        _SHOW,
        environment={
            "MULTI_LINE": "first\nsecond\n",
            "EMPTY": "",
            "NOT_ASCII": "naïve 東京",
            "NOT_UTF_8": "caf\udce9",
            "LONG": "x" * 100_000,
            "LD_LIBRARY_PATH": "/opt/nowhere/lib",
            "LD_PRELOAD": "",
            "GLIBC_TUNABLES": "glibc.malloc.check=0",
            "PYTHONPATH": "/opt/nowhere/python",
            "PYTHONHOME": "/opt/nowhere",
            "OVERSPILL_KEPT_X": "1",
            "LC_ALL": "C",
            "dotted.name": "1",
            "BASH_FUNC_greet%%": "() { echo hello\n}",
        },
    ),
    Case("five-thousand-variables", _SHOW, environment={f"VARIABLE_{i:04d}": f"value {i}\n" for i in range(5000)}),
    Case(
        "a-megabyte-of-variables",
        bash("env -0 | grep -az ^LARGE_ | sort -z | sha256sum"),
        environment={f"LARGE_{i}": f"{i}\n" * 60_000 for i in range(8)},
    ),
    Case(
        "a-value-of-a-megabyte",
        bash('echo "${#LARGE}"'),
        session='{ env -0; printf "LARGE=%01000000d\\0" 0; } >vars\n'
        "sbatch --export-file=vars --output=out job.sh; rm vars\n",
    ),
    Case(
        "export-file",
        _SHOW,
        session='printf "PATH=/usr/bin:/bin\\0A=two\nlines\\0" >vars; sbatch --export-file=vars job.sh\n',
        environment=_SOME,
    ),
    Case("export-none", _SHOW, options=("--export=NONE",), environment=_SOME),
    Case("export-a-list", _SHOW, options=("--export=ONE,THREE=3",), environment=_SOME),
    Case("export-all-and-more", _SHOW, options=("--export=ALL,ONE=other,THREE=a b",), environment=_SOME),
    Case("get-user-env", _SHOW, options=("--get-user-env",), environment=_SOME),
    Case(
        "an-exported-function",
        bash("greet world"),
        environment={"BASH_FUNC_greet%%": '() {  echo "hello $1"\n}'},
    ),
    Case(
        "variables-of-a-shaped-job",
        _SHOW,
        options=("--nodes=1", "--ntasks=4", "--ntasks-per-node=4", "--cpus-per-task=2", "--mem=1200", "--time=7"),
    ),
    Case("variables-of-memory-per-cpu", _SHOW, options=("--ntasks=3", "--mem-per-cpu=110M")),
    Case("variables-of-a-hint", _SHOW, options=(_MEMORY, "--hint=nomultithread", "--ntasks=2"), is_diverted=False),
    Case(
        "variables-of-many-options",
        _SHOW,
        options=(
            "--job-name=named",
            "--comment=said",
            "--nice=3",
            "--requeue",
            "--mail-type=END,FAIL",
            "--mail-user=a@b",
            "--distribution=block:cyclic",
            "--no-kill",
            "--wckey=key",
            "--profile=none",
            "--acctg-freq=30",
            "--oversubscribe",
            "--kill-on-invalid-dep=yes",
            "--spread-job",
        ),
    ),
    Case("variables-of-an-array-task", _SHOW, options=("--array=3-7:4%1", "--output=task-%a.out")),
    Case("slurm-variables-of-the-submitter", _SHOW, environment={"SBATCH_COMMENT": "c", "SLURM_HINT": "multithread"}),
    Case(
        "working-directory-and-umask",
        bash(
            'pwd; pwd -P; echo "$SLURM_SUBMIT_DIR" "$PWD" "$OLDPWD"; umask\n'
            'touch made; stat -c "%a %U %G" made; rm made'
        ),
        prelude="umask 0027",
    ),
    Case("a-strict-umask", bash("umask; mkdir d; stat -c %a d; rmdir d"), prelude="umask 0777"),
    Case("ulimits", bash("ulimit -Sa; ulimit -Ha"), prelude="ulimit -Sn 777; ulimit -Sc 0; ulimit -Ss 4096"),
    Case("ulimits-not-propagated", bash("ulimit -Sn"), options=("--propagate=NONE",), prelude="ulimit -Sn 777"),
    Case(
        "one-ulimit-propagated",
        bash("ulimit -Sn; ulimit -Ss"),
        options=("--propagate=STACK",),
        prelude="ulimit -Sn 777; ulimit -Ss 4096",
    ),
    Case(
        "a-file-size-limit",
        bash("exec 2>/dev/null; head -c 3000000 /dev/zero >/tmp/f; stat -c %s /tmp/f"),
        prelude="ulimit -f 1000",
    ),
    Case("identity", bash("id -u; id -g; id -G; id -un; id -gn; echo ~; whoami; echo $USER $HOME $LOGNAME; umask")),
    Case("no-standard-input", bash("readlink /proc/self/fd/0; wc -c")),
    Case(
        "standard-input",
        bash("sha256sum; wc -c"),
        options=("--input=stdin.bin",),
        files={"stdin.bin": bytes(range(256)) * 4096},
    ),
    Case("standard-input-read-twice", bash("read a; echo $a; cat"), options=("--input=in",), files={"in": "1\n2\n3"}),
    Case("standard-input-that-is-missing", bash("cat; echo ran"), options=("--input=nowhere",)),
    Case("standard-input-by-pattern", bash("cat"), options=("--input=in-%x", "--job-name=n"), files={"in-n": "found"}),
    Case("open-descriptors", bash("ls /proc/$$/fd")),
    Case("signals-ignored-and-blocked", "#!/usr/bin/grep -E Sig(Blk|Ign|Cgt)\n", ("/proc/self/status",)),
    Case("priorities", bash("nice; ionice; chrt -p $$ | grep -Eo 'SCHED_.*|priority.*'")),
    Case(
        "leads-its-process-group",
        bash('for what in pgid sid; do [ $(ps -o $what= -p $$) = $$ ]; echo "$what $?"; done'),
    ),
    Case("no-terminal", bash("tty; for fd in 0 1 2; do [ -t $fd ]; echo $?; done; echo x >/dev/tty; echo $?")),
    Case("temporary-directory", bash('echo "$TMPDIR"; f=$(mktemp) && echo x >"$f" && cat "$f" && rm "$f"')),
    Case(
        "temporary-directory-of-ones-own",
        bash('echo "$TMPDIR"; stat -c "%a %U" "$TMPDIR"; rmdir "$TMPDIR"'),
        environment={"TMPDIR": "/tmp/made here"},
    ),
    Case("temporary-directory-that-cannot-be", bash('echo "$TMPDIR"'), environment={"TMPDIR": "/usr/nope/x"}),
)
