"""How scripts end, and what they do with processes and signals meanwhile."""

from __future__ import annotations

from tests.e2e.cases.case import Case, bash

_CODES = (0, 1, 2, 77, 126, 127, 128, 130, 137, 143, 255, 256)
#: The ones that end a process.
_FATAL = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM"),
    *("TERM", "STKFLT", "XCPU", "XFSZ", "VTALRM", "PROF", "IO", "PWR", "SYS", "RTMIN", "RTMAX-1"),
)
_HARMLESS = ("CHLD", "CONT", "URG", "WINCH")

CASES = (
    *(Case(f"exit-code-{code}", bash(f"echo leaving; exit {code}")) for code in _CODES),
    *(
        Case(
            f"ended-by-{name.lower()}",
            bash(f"echo before; kill -{name} $$; sleep 5; echo never"),
            prelude="ulimit -c 0",
        )
        for name in _FATAL
    ),
    Case("harmless-signals", bash("".join(f"kill -{name} $$; echo {name}\n" for name in _HARMLESS))),
    Case("last-command-decides", bash("true; (exit 3)")),
    Case("command-not-found", bash("no-such-command")),
    Case("set-e-ends-it", bash("set -e; echo before; (exit 12); echo after")),
    Case("pipefail", bash("set -o pipefail; (exit 4) | true; exit $?")),
    Case("subshells", bash("(exit 5); echo $?; $(exit 6); echo $?; { false; } || exit 7")),
    Case("exec-of-another-program", bash("echo before; exec perl -e 'print qq(perl\\n); exit 21'")),
    Case("exec-of-what-is-missing", bash("exec /opt/nowhere/program; echo after")),
    Case("trap-on-exit", bash("trap 'echo bye; exit 8' EXIT; echo work; exit 3")),
    Case("trap-on-a-signal-of-its-own", bash("trap 'echo got TERM; exit 4' TERM; kill -TERM $$; sleep 5; echo never")),
    Case("trap-that-ignores", bash("trap '' TERM INT HUP; for s in TERM INT HUP; do kill -$s $$; done; echo alive")),
    Case("kill-0-ends-the-group", bash("sleep 30 & echo started; kill 0; sleep 5; echo never")),
    Case("kill-of-its-own-group", bash("sleep 30 & kill -TERM -- -$$; sleep 5; echo never")),
    Case("background-jobs-and-wait", bash("(sleep 0.3; exit 3) & a=$!; (exit 4) & wait $a; echo $?; wait $!; echo $?")),
    Case("wait-for-any", bash("(sleep 0.1; exit 9) & wait -n; echo $?; wait; echo $?")),
    Case("job-control", bash("set -m; sleep 1 & jobs | tr -s ' '; fg >/dev/null; echo $?")),
    Case("left-behind-background-process", bash("sleep 300 & (setsid sleep 301 &) ; echo done")),
    Case("left-behind-with-nohup", bash("nohup sleep 300 >/dev/null 2>&1 & echo done")),
    Case("left-behind-daemon", bash("(setsid bash -c 'cd /; sleep 300 & disown' &); sleep 0.2; echo done; exit 2")),
    Case("left-behind-writer", bash("(while :; do echo tick >/dev/null; sleep 0.1; done) & echo done")),
    Case("two-hundred-processes", bash("for i in $(seq 200); do (sleep 0.5; exit 1) & done; wait; echo all")),
    Case("deep-recursion-of-shells", bash('n=${1:-0}; [ "$n" = 50 ] && echo deep && exit 11; bash "$0" $((n + 1))')),
    Case(
        "stop-signal-of-its-own",
        bash("(sleep 0.5; echo from behind; kill -CONT $$) & kill -TSTP $$; echo resumed; wait"),
    ),
    Case("coprocess", bash("coproc cat; echo through >&${COPROC[1]}; read -ru ${COPROC[0]} x; echo $x")),
    Case(
        "timeout-inside",
        bash("exec 2>/dev/null; timeout 0.3 sleep 9; echo $?; timeout -s KILL 0.3 sleep 9 2>/dev/null; echo $?"),
    ),
    Case("alarm-by-default", "#!/usr/bin/perl\n$| = 1; print qq(before\\n); alarm 1; sleep 9; print qq(never\\n);\n"),
    Case("abort-in-python", "#!/usr/bin/python3\nimport os\nos.abort()\n", prelude="ulimit -c 0"),
    Case("python-exits-by-text", "#!/usr/bin/python3\nraise SystemExit('said')\n"),
    Case("cpu-time-limit-of-its-own", bash("ulimit -t 1; while :; do :; done"), prelude="ulimit -c 0"),
    Case(
        "sets-its-own-limits",
        bash("ulimit -Sn 64; ulimit -Sn; python3 -c 'for i in range(99): open(0, closefd=False)'; echo $?"),
    ),
    Case("priority-lowered", bash("renice -n 5 $$ >/dev/null; nice")),
    Case("a-second-session", bash("setsid --wait bash -c 'exit 13'; echo $?")),
)
