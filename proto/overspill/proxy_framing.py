"""The framing on the relay's Unix socket, between one proxy and the relay. Standard library only.

A stream of frames in both directions, each `>IB` (payload length in bytes, type) and the payload:

| type   | from  | payload |
|--------|-------|---------|
| HELLO  | proxy | JSON object `Hello`: who is calling, and how many output bytes it has written. Always the first. |
| SCRIPT | proxy | the batch script, byte for byte, at most `MAX_PAYLOAD_BYTES` |
| ARGV   | proxy | NUL-separated argv: argv[0] as slurmd passed it, then the user's arguments |
| ENV    | proxy | NUL-separated "NAME=value" entries without `KEPT_PREFIX`. Ends the opening HELLO, SCRIPT, ARGV, ENV |
| STDIN  | proxy | `>Q` offset, then bytes of standard input; no bytes after the offset means end of file |
| SIGNAL | proxy | `>QB` sequence number from 1, signal number. Sent again after a reconnect until SIGNAL_ACK |
| ACK    | proxy | `>QQ` bytes of stdout and stderr that are written to the user's files |
| STDIN_FROM | relay | `>Q` offset from which standard input is wanted; the proxy sends none before |
| SIGNAL_ACK | relay | `>Q` highest signal sequence number that the agent has stored |
| OUTPUT | relay | `>BQ` stream (1 stdout, 2 stderr) and byte offset, then the bytes |
| END    | relay | JSON object `End`: how the script ended. The last frame; the proxy acknowledges nothing after it |

`Hello`: {"protocol": 1, "slurm_job_id": int, "restart_count": int, "cwd": base64, "umask": int, "rlimits": {"NOFILE":
[soft, hard], …}, "has_stdin": bool, "is_output_joined": bool, "stdout": bytes written, "stderr": bytes written,
"was_handed_over": bool}. -1 in a limit is unlimited. `restart_count` is SLURM_RESTART_COUNT of the job's environment, 0
where it is absent: a proxy whose count is below Slurm's belongs to an attempt that is over, and gets no run. (A count
above it means nothing: a job that was submitted from within a restarted one inherits the variable.) The relay takes the
uid from SO_PEERCRED and everything else about the job from slurmctld. `was_handed_over` tells whether an earlier
connection of this proxy has taken a whole opening: until one has, no relay can have submitted what it carries. Where it
is absent (an older proxy), one may have.

`End`: {"exit_code": int} or {"signal": int}, with "message": str where the user must be told something that the
script itself did not say; the proxy writes it, as one line, to stderr.

The relay may go away at any time. The proxy then reconnects for as long as it lives and opens again with the offsets
it has reached; nothing else is needed, because Submit is idempotent. A relay that closes without END has said nothing.
A proxy that closes before END is dead, and the relay stops its run.
"""

from __future__ import annotations

import struct
from enum import IntEnum

PROTOCOL = 1
#: slurmctld accepts scripts of up to 4 MiB by default (max_script_size); environments are bounded by ARG_MAX.
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
#: Of SCRIPT, ARGV and ENV together. What the relay submits, with names and limits, must fit a gRPC message of 64 MiB.
MAX_OPENING_BYTES = 60 * 1024 * 1024
#: Standard input in one frame.
MAX_STDIN_BYTES = 256 * 1024
#: Signals that are not acknowledged; a proxy that has so many keeps one of each number.
MAX_UNACKNOWLEDGED_SIGNALS = 256

#: What the SPANK plugin puts before names that would bend the proxy's interpreter (LD_*, GCONV_PATH, GLIBC_TUNABLES,
#: LOCPATH) and before names that carry it already: taken off once from every name, it gives back the job's environment.
KEPT_PREFIX = b"OVERSPILL_KEPT_"
#: What the SPANK plugin puts before the path of the site's TaskProlog, as an entry of its own, where there is one.
TASK_PROLOG = b"OVERSPILL_TASK_PROLOG="

HEADER = struct.Struct(">IB")
OFFSET = struct.Struct(">Q")
OFFSETS = struct.Struct(">QQ")
SIGNAL = struct.Struct(">QB")
OUTPUT = struct.Struct(">BQ")

STDOUT = 1
STDERR = 2


class FrameType(IntEnum):
    """What a frame carries; see the module's table."""

    HELLO = 1
    SCRIPT = 2
    ARGV = 3
    ENV = 4
    STDIN = 5
    SIGNAL = 6
    ACK = 7
    STDIN_FROM = 64
    SIGNAL_ACK = 65
    OUTPUT = 66
    END = 67


class FramingError(ValueError):
    """The peer sent what is no frame: a type or a length that does not exist."""


def encode(frame_type: FrameType, payload: bytes = b"") -> bytes:
    """Return one frame.

    Raises:
        FramingError: if the payload is longer than `MAX_PAYLOAD_BYTES`.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise FramingError(f"payload of {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} fit")
    return HEADER.pack(len(payload), frame_type) + payload


def decode_header(header: bytes) -> tuple[FrameType, int]:
    """Return the type and the payload's length in bytes from `HEADER.size` bytes.

    Raises:
        FramingError: if the type is unknown or the length beyond `MAX_PAYLOAD_BYTES`; the connection is useless.
    """
    length, number = HEADER.unpack(header)
    if length > MAX_PAYLOAD_BYTES:
        raise FramingError(f"frame of {length} bytes announced, at most {MAX_PAYLOAD_BYTES} fit")
    try:
        return FrameType(number), length
    except ValueError:
        raise FramingError(f"frame type {number} does not exist") from None
