"""The scripts of the suite: each for bash and Python, and, in its `#fake` lines, for the shipped fake's runner."""

from __future__ import annotations

import signal

_BASH = "#!/bin/bash\n"


def saying(text: str) -> bytes:
    return f"{_BASH}#fake say {text!r}\necho {text!r}\n".encode()


def exiting(code: int) -> bytes:
    return f"{_BASH}#fake exit {code}\nexit {code}\n".encode()


def dying(number: signal.Signals) -> bytes:
    name = number.name.removeprefix("SIG")
    return f"{_BASH}#fake die {name}\nkill -s {name} $$\nsleep 60\n".encode()


#: Says so and waits for what ends it.
WAITING = f"""{_BASH}
#fake say ready
#fake wait
echo ready
exec sleep 600
""".encode()

OUTPUT_BYTES = 3_000_000
#: Two streams, one of them long, without a newline at its end.
OUTPUT = f"""{_BASH}
#fake repeat x {OUTPUT_BYTES}
#fake complain 'a word on the side'
head -c {OUTPUT_BYTES} /dev/zero | tr '\\0' x
echo 'a word on the side' >&2
""".encode()

#: The shell and a child, each of which says which USR1 it got, once both are ready; TERM ends both.
TALKING = f"""{_BASH}
#fake catch USR1 'USR1 to the shell'
#fake fork 1 USR1 'USR1 to the child'
#fake say ready
#fake wait
trap 'echo "USR1 to the shell"' USR1
bash -c 'trap "echo \\"USR1 to the child\\"" USR1; echo ready; while :; do sleep 0.05; done' &
while :; do sleep 0.05; done
""".encode()

#: Of four kinds, and none of them heeds TERM: the shell, its child, a child with a session of its own, a daemon.
STUBBORN_PROCESSES = 4
STUBBORN = f"""{_BASH}
#fake catch TERM ''
#fake fork 3
#fake say ready
#fake wait
exec python3 - <<'PYTHON'
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def live():
    while True:
        time.sleep(60)
if not os.fork():
    live()
if not os.fork():
    os.setsid()
    live()
if not os.fork():
    os.setsid()
    if not os.fork():
        live()
    os._exit(0)
os.waitpid(-1, 0)
print("ready", flush=True)
live()
PYTHON
""".encode()

#: More than the suite's runs ask for, held until it is noticed.
_GREEDY_MIB = 400
_ALLOCATE = f"data = b'x' * ({_GREEDY_MIB} << 20); import time; time.sleep(60)"
GREEDY = f"""{_BASH}
#fake allocate {_GREEDY_MIB}
exec python3 -c "{_ALLOCATE}"
""".encode()
GREEDY_CHILD = f"""{_BASH}
#fake allocate-in-child {_GREEDY_MIB}
#fake say 'the script goes on'
python3 -c "{_ALLOCATE}"
echo 'the script goes on'
exit 0
""".encode()

#: Says by how much sooner than its runner the kernel would kill it.
EXPENDABLE = f"""{_BASH}
#fake say 500
echo $(($(</proc/self/oom_score_adj) - $(</proc/$PPID/oom_score_adj)))
""".encode()

#: Four processes that compute for three seconds; then, in milliseconds, how long it took.
BURNING = f"""{_BASH}
#fake burn 1 4
began=$(date +%s%N)
for _ in 1 2 3 4; do timeout 3 sh -c 'while :; do :; done' & done
wait
echo $((($(date +%s%N) - began) / 1000000))
""".encode()

DEVICES = f"""{_BASH}
#fake devices
#fake wait
echo "$CUDA_VISIBLE_DEVICES"
exec sleep 600
""".encode()
