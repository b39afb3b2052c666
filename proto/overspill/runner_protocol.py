"""The HTTPS protocol between one runner and its agent. The runner dials; the agent never does.

The runner is one file of the standard library and cannot import this module; `tests/unit/test_runner_contract.py`
holds both to the same numbers.

How a backend starts it: `<python> -I -S runner.py --url https://host:port --run RUN_ID --attempt N --token-file PATH
--ca-file PATH`, as the run's user, with an environment of its own (the job's comes with the spec), standard input
/dev/null, stdout and stderr the site's log. Both files lie in the same directory, which is the runner's own: it is
mode 0700 and free for its spool. With the local backend the runner is PID 1 of a PID namespace: nothing that the
script does can kill it, `kill(-1, …)` is exactly the run's other processes, it reaps orphans, and its end kills what
is left. It may inherit a descriptor above 2, which must not reach the script. The directory of argv[0] exists and is
writable: the runner writes the script there. cwd exists and is the user's. What the runner's own environment says in
CUDA_VISIBLE_DEVICES, GPU_DEVICE_ORDINAL, ROCR_VISIBLE_DEVICES and ZE_AFFINITY_MASK takes the place of what the spec
says there: so a backend tells which GPUs the run has.

All requests carry `Authorization: Bearer <token>`; a token is good for one run and one attempt. They carry
`Overspill-Instance: <32 hex digits>`, too, drawn at random when the runner starts: the first instance that asks for
the spec has the attempt, durably, and every other gets 409, so that a scheduler that starts an attempt a second time
starts nothing. Every path begins
with `/runner/v1/<run_id>/<attempt>/`. 401: wrong token. 404: no such run. 409: this attempt has been fenced off or
the run is over: the runner kills its processes and exits. 5xx and broken connections: the runner retries forever,
with back-off up to 5 s, until its lease is over.

`GET spec` → JSON object, bytes as base64: {"argv": [..], "environment": [..], "cwd": .., "umask": int, "rlimits":
    {"NOFILE": [soft, hard]}, -1 unlimited, "has_stdin": bool, "is_output_joined": bool, "time_limit_s": int,
    "time_limit_grace_s": int: so long Slurm has to end the job at its limit before the runner does, "kill_wait_s": int,
    "lease_s": int, "spool_bytes": int: so much output the runner keeps on its disk while the agent is away, beyond what
    it keeps in memory; then the script waits}. 425: inputs are not complete yet, ask again.
`GET script` → the script's bytes. `GET stdin` → the bytes of standard input.

`GET events` → server-sent events until the connection breaks; the runner reconnects at once. Each has a JSON `data`:
    `event: hello`  {"stdout": n, "stderr": n, "seq": n}: what the agent holds durably. First after each connect.
    `event: ack`    the same object, whenever it has grown. The runner frees what is acknowledged.
    `event: signal` {"seq": n, "signal": n, "scope": "shell"|"tree"}, with `id: n`. Repeated after each connect until
                    acknowledged by a SIGNALLED report; the runner delivers each seq once.
    `event: limit`  {"time_limit_s": n}: the job's time limit as it is now, 0 for none, in place of the spec's; from the
                    script's start. After each connect where it is known, and whenever it has changed.
    `event: stop`   {}: KILL to the whole process tree, now. Repeated after each connect while the run is to stop.
    `event: keepalive` {}: every `KEEPALIVE_S`. Any event renews the lease, which is between runner and agent only:
                    whether the cluster reaches the agent does not count. Without an event for `lease_s` seconds of
                    monotonic time the runner kills its processes: the agent may be gone, and nobody else can stop them.
                    `lease_s` and the time to kill are together less than the 120 s after which Slurm may start a
                    requeued job again.

`POST upload` → one chunked request for as long as it lives; its body is a stream of frames, each `>BIQ` (type, payload
    length in bytes, offset or sequence number) and the payload:
    STDOUT, STDERR: output bytes; the number is the byte offset. With joined output everything is STDOUT.
    REPORT: JSON object; the number is a sequence number from 1.
        {"kind": "started", "pid": n}
        {"kind": "signalled", "seq": n}: delivered, or too late to matter.
        {"kind": "ended", "exit_code": n | "signal": n, "timed_out": bool, "lease_lost": bool, "oom_kills": n (processes
         of the run that the kernel killed for want of memory, as far as the run's own memory cgroup tells; else 0),
         "error": str where the script could not be started, "user_cpu_ms": n, "system_cpu_ms": n, "max_rss_kib": n,
         "stdout": total bytes, "stderr": total bytes}: always the last frame.
    What the agent has already it drops; what leaves a gap it answers with 400. The answer, 200 with an empty body,
    comes after `ended` and everything before it is durable; then the runner exits.
"""

from __future__ import annotations

import struct
from enum import IntEnum

FRAME_HEADER = struct.Struct(">BIQ")
#: The runner cuts its output into frames of at most this many bytes.
MAX_FRAME_BYTES = 256 * 1024
KEEPALIVE_S = 10.0
PATH_PREFIX = "/runner/v1"
INSTANCE_HEADER = "Overspill-Instance"


class RunnerFrame(IntEnum):
    """What a frame of `POST upload` carries."""

    STDOUT = 1
    STDERR = 2
    REPORT = 3
