"""Runs one batch script as slurmstepd would have, and keeps its agent informed. One file; it dials out only.

`python3 -I -S runner.py --url https://site:7444 --run RUN_ID --attempt N --token-file PATH --ca-file PATH`

The protocol is `overspill.runner_protocol`. The runner may be the first process of a PID namespace; elsewhere it is a
child subreaper, so that no process of the script gets away from it.

Who does what:

* The launcher, a child that is forked before there are threads, waits for its orders and becomes the script.
* `Preparation` (thread) fetches what is to be run. `Events` (thread) follows what the agent says.
* `OutputReader` (thread per stream) moves output into the `SendLog`, which holds a bounded amount of what the agent
  does not hold durably yet: in memory, and on disk while the agent is away. When it is full, nobody reads, and the
  script waits in its write: nothing is lost.
* `Upload` (thread) sends the log, and again from the acknowledged offsets after any break.
* `Supervisor` (main thread) alone signals, reaps and decides.

One starts per job, and most of what a start costs is imports: `http.client` (which brings `email`) and `argparse` would
double it. So HTTP, as much of it as is needed, is spoken here.

Everything sleeps until something happens. Errors of its own go to its standard error, which is the site's log.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import ssl
import stat
import struct
import sys
import threading
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, NoReturn, Optional, Tuple

# The contract; tests/unit/test_runner_contract.py holds it to overspill.runner_protocol.
PATH_PREFIX = "/runner/v1"
#: Names this very process: an attempt is the first one's that asks for the spec.
INSTANCE_HEADER = "Overspill-Instance"
FRAME_HEADER = struct.Struct(">BIQ")
MAX_FRAME_BYTES = 256 * 1024
KEEPALIVE_S = 10.0
STDOUT = 1
STDERR = 2
REPORT = 3

#: Output in memory that the agent does not hold durably yet; beyond it the script waits, or the spool is used.
WINDOW_BYTES = 16 * 1024 * 1024
#: So much more likely than its runner is a script to be killed for want of memory, in thousandths of what there is.
OOM_SCORE_ABOVE_RUNNER = 500
#: Limits from here on are none to the kernel that has the numbers as signed ones. RLIM_INFINITY may be any of them.
UNLIMITED_FROM = 2**63
#: What an entry of the send log weighs besides its bytes, roughly.
ENTRY_BYTES = 256
FIRST_BACK_OFF_S = 0.1
LONGEST_BACK_OFF_S = 5.0
#: Inputs that are not complete yet (425) are asked for again after this.
NOT_READY_S = 0.5
NOT_READY = 425
#: HTTP's.
OK = 200
CONFLICT = 409
#: Of the head of an answer, and of an event.
MAX_LINE_BYTES = 64 * 1024
NETWORK_TIMEOUT_S = 30.0
#: A peer whose host does not acknowledge is gone after 9 s, be it that bytes are on their way or that none are.
TCP_OPTIONS = (
    (socket.TCP_KEEPIDLE, 3),
    (socket.TCP_KEEPINTVL, 2),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 9000),
)
#: How long the agent may take for a start that it has not refused. No lease is known until then.
STARTUP_LEASE_S = 600.0
#: How long output may stand still once all processes are dead: then somebody who is none of them holds the pipe.
DRAIN_S = 5.0
#: How long an agent that has let the lease run out is still tried for the last report.
LAST_WORD_S = 60.0
KILL_AGAIN_S = 0.25
#: A signal for the shell that comes this soon after its start, or came before, waits until the script heeds it: at home
#: the script would have been running for longer, and had its handler.
HANDLER_S = 5.0
_HANDLER_POLL_S = 0.05
#: slurmstepd kills what a script leaves behind, but not in the same instant: a process substitution that only has to
#: finish its last bytes outlives its script by milliseconds, and its output is in the file.
LEFTOVER_S = 0.2
#: Who takes a machine back kills all of a job, the runner too, and may come to the script first, as
#: `condor_vacate_job -fast` does. A KILL from elsewhere is reported only if the runner has outlived it for so long.
KILLED_ALONE_S = 0.5

#: What the site gives the runner in these is the job's: at home Slurm set them for devices of the virtual node.
DEVICE_VARIABLES = (b"CUDA_VISIBLE_DEVICES", b"GPU_DEVICE_ORDINAL", b"ROCR_VISIBLE_DEVICES", b"ZE_AFFINITY_MASK")

NO_GPU = b"10000"
#: NVIDIA's and AMD's.
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd")

EXIT_DELIVERED = 0
EXIT_FENCED = 3
EXIT_LEASE_LOST = 4

_F_SETPIPE_SZ = 1031
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_s() -> float:
    """Return monotonic seconds that go on while the machine sleeps: a lease does, too."""
    return time.clock_gettime(_CLOCK)


def note(message: str) -> None:
    """Write one line to the site's log."""
    sys.stderr.write(time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) + message + "\n")
    sys.stderr.flush()


def prctl(option: int, argument: int) -> bool:
    """Ask the kernel for something by prctl, where the interpreter has ctypes; return whether it worked."""
    try:
        import ctypes  # noqa: PLC0415 (some builds have none; the runner then does without)
    except ImportError:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return hasattr(libc, "prctl") and libc.prctl(option, argument, 0, 0, 0) == 0


# ---------------------------------------------------------------------------------------------------------------------
# The agent
# ---------------------------------------------------------------------------------------------------------------------


class FencedError(Exception):
    """409: another attempt has taken over, or the run is over."""


class RefusedError(Exception):
    """The agent answered with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__("the agent answered {}".format(status))
        self.status = status


#: What a broken or confused peer makes happen; trying again may help.
TRANSIENT = (OSError, RefusedError, ValueError, LookupError, TypeError)


class BackOff:
    """Growing pauses between tries."""

    def __init__(self) -> None:
        self._next_s = FIRST_BACK_OFF_S

    def reset(self) -> None:
        self._next_s = FIRST_BACK_OFF_S

    def sleep(self) -> None:
        time.sleep(self._next_s)
        self._next_s = min(LONGEST_BACK_OFF_S, self._next_s * 2)


class Agent:
    """The agent's requests for this attempt."""

    def __init__(self, url: str, run_id: str, attempt: int, token: str, ca_file: str) -> None:
        self._host, self._port = split_url(url)
        self._head = (
            "{{}} {}/{}/{}/{{}} HTTP/1.1\r\nHost: {}:{}\r\nAuthorization: Bearer {}\r\n{}: {}\r\n{{}}\r\n"
        ).format(PATH_PREFIX, run_id, attempt, self._host, self._port, token, INSTANCE_HEADER, os.urandom(16).hex())
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.load_verify_locations(cafile=ca_file)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3

    def connect(self, timeout_s: float = NETWORK_TIMEOUT_S) -> "Connection":
        """Return a new connection; small writes leave at once, and a silent peer is noticed.

        Args:
            timeout_s: for each read or write.
        """
        plain = socket.create_connection((self._host, self._port), timeout_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in TCP_OPTIONS:
                plain.setsockopt(socket.IPPROTO_TCP, option, value)
            return Connection(self._tls.wrap_socket(plain, server_hostname=self._host))
        except BaseException:
            plain.close()
            raise

    def get(self, connection: "Connection", name: str) -> "Body":
        """Ask for a resource and return the answer's body, which is still to be read.

        Raises:
            FencedError: this attempt is over.
            RefusedError: any other answer than 200.
        """
        connection.sock.sendall(self._head.format("GET", name, "").encode())
        return connection.answer()

    def begin_upload(self, connection: "Connection") -> None:
        """Send the head of a chunked `POST upload`; the body follows as chunks."""
        fields = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"
        connection.sock.sendall(self._head.format("POST", "upload", fields).encode())


def split_url(url: str) -> Tuple[str, int]:
    """Return host and port of an https URL.

    Raises:
        ValueError: if it is none.
    """
    scheme, _, rest = url.partition("://")
    host, colon, port = rest.partition("/")[0].rpartition(":")
    if scheme != "https" or not (host if colon else port):
        raise ValueError("not an https URL: {}".format(url))
    return (host.strip("[]"), int(port)) if colon else (port, 443)


class Connection:
    """One kept HTTP/1.1 connection. Source: RFC 9112."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self._reader = sock.makefile("rb")

    def answer(self) -> "Body":
        """Wait for the head of the answer and return its body.

        Raises:
            FencedError: the attempt is over.
            RefusedError: any other answer than 200.
            ValueError: it is no HTTP.
        """
        line = self._line()
        version, _, rest = line.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise ConnectionResetError("no answer") if not line else ValueError("no HTTP: {!r}".format(line))
        fields: Dict[bytes, bytes] = {}
        while True:
            line = self._line()
            if not line:
                break
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        check_status(int(rest[:3]))
        is_chunked = fields.get(b"transfer-encoding", b"").lower() == b"chunked"
        return Body(self._reader, None if is_chunked else int(fields[b"content-length"]))

    def _line(self) -> bytes:
        line = self._reader.readline(MAX_LINE_BYTES)
        if len(line) == MAX_LINE_BYTES:
            raise ValueError("a line of an answer is too long")
        return line.rstrip(b"\r\n")

    def close(self) -> None:
        self._reader.close()
        self.sock.close()


class Body:
    """The body of one answer, as pieces of whatever size has come. It must be read to its end before the next."""

    def __init__(self, reader: Any, length: Optional[int]) -> None:
        """Begin to read.

        Args:
            reader: buffered, behind the head.
            length: None if the body is chunked.
        """
        self._reader = reader
        self._left = length or 0
        self._is_chunked = length is None

    def read(self) -> bytes:
        """Return the whole rest."""
        return b"".join(iter(self.piece, b""))

    def piece(self) -> bytes:
        """Return what comes next, as soon as it is there; nothing at the end.

        Raises:
            OSError: the connection broke.
            ValueError: the chunks are none.
        """
        if self._is_chunked and not self._left:
            self._left = int(self._reader.readline(MAX_LINE_BYTES).partition(b";")[0], 16)
            if not self._left:
                self._is_chunked = False
                self._reader.readline(MAX_LINE_BYTES)
        if not self._left:
            return b""
        data: bytes = self._reader.read1(min(self._left, MAX_FRAME_BYTES))
        if not data:
            raise ConnectionResetError("the agent broke off an answer")
        self._left -= len(data)
        if self._is_chunked and not self._left:
            self._reader.readline(MAX_LINE_BYTES)
        return data


def check_status(status: int) -> None:
    """Raise what any other status than 200 means."""
    if status == CONFLICT:
        raise FencedError
    if status != OK:
        raise RefusedError(status)


class Spec:
    """What is to be run; see `GET spec`."""

    def __init__(self, document: Dict[str, Any]) -> None:
        """Take the JSON document.

        Raises:
            ValueError, KeyError, TypeError: if it is none.
        """
        self.argv = [base64.b64decode(argument) for argument in document["argv"]]
        self.environment = [base64.b64decode(entry) for entry in document["environment"]]
        self.cwd = base64.b64decode(document["cwd"])
        self.umask = int(document["umask"])
        self.rlimits = {str(name): (int(soft), int(hard)) for name, (soft, hard) in document["rlimits"].items()}
        self.has_stdin = bool(document["has_stdin"])
        self.is_output_joined = bool(document["is_output_joined"])
        self.time_limit_s = int(document["time_limit_s"])
        self.time_limit_grace_s = int(document["time_limit_grace_s"])
        self.kill_wait_s = int(document["kill_wait_s"])
        self.lease_s = int(document["lease_s"])
        self.spool_bytes = int(document["spool_bytes"])


class Preparation(threading.Thread):
    """Fetches spec, script and standard input, for as long as it takes."""

    def __init__(self, agent: Agent, directory: str, post: Callable[[str, Any], None]) -> None:
        super().__init__(name="preparation", daemon=True)
        self._agent = agent
        self._stdin_path = os.path.join(directory, "stdin")
        self._post = post

    def run(self) -> None:
        back_off = BackOff()
        while True:
            try:
                self._post("prepared", self._fetch())
                return
            except FencedError:
                self._post("fenced", None)
                return
            except TRANSIENT as error:
                if isinstance(error, RefusedError) and error.status == NOT_READY:
                    time.sleep(NOT_READY_S)
                    continue
                note("inputs: {}".format(error))
                back_off.sleep()

    def _fetch(self) -> Tuple[Spec, bytes, str, Connection]:
        """Return what is to be run, and the connection, which the upload takes over: a handshake less."""
        connection = self._agent.connect()
        try:
            spec = Spec(json.loads(self._agent.get(connection, "spec").read()))
            script = self._agent.get(connection, "script").read()
            if spec.has_stdin:
                with open(self._stdin_path, "wb") as file:
                    body = self._agent.get(connection, "stdin")
                    file.writelines(iter(body.piece, b""))
        except BaseException:
            connection.close()
            raise
        return spec, script, self._stdin_path if spec.has_stdin else os.devnull, connection


class Events(threading.Thread):
    """Follows `GET events` and passes each on."""

    def __init__(self, agent: Agent, post: Callable[[str, Any], None]) -> None:
        super().__init__(name="events", daemon=True)
        self._agent = agent
        self._post = post
        self._back_off = BackOff()

    def run(self) -> None:
        while True:
            try:
                self._follow()
            except FencedError:
                self._post("fenced", None)
                return
            except TRANSIENT as error:
                note("events: {}".format(error))
            self._back_off.sleep()

    def _follow(self) -> None:
        connection = self._agent.connect(3 * KEEPALIVE_S)
        try:
            for name, data in parse_events(lines_of(self._agent.get(connection, "events"))):
                self._back_off.reset()
                self._post(name, data)
        finally:
            connection.close()


def lines_of(body: Body) -> Iterator[bytes]:
    """Yield each line as soon as it is there.

    Raises:
        ValueError: if one is too long.
    """
    begun = b""
    for piece in iter(body.piece, b""):
        *whole, begun = (begun + piece).split(b"\n")
        yield from whole
        if len(begun) > MAX_LINE_BYTES:
            raise ValueError("a line of an event is too long")


def parse_events(lines: Iterable[bytes]) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Yield the name and the JSON data of each server-sent event."""
    name, data = "", b""
    for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        if field == b"event":
            name = value.strip().decode()
        elif field == b"data":
            data += value.strip()
        elif not line.strip():
            if name:
                yield name, json.loads(data or b"{}")
            name, data = "", b""


# ---------------------------------------------------------------------------------------------------------------------
# Output
# ---------------------------------------------------------------------------------------------------------------------


class SpoolFile:
    """Output on disk that memory has no room for; nameless, so that its end is the runner's, whatever happens."""

    def __init__(self, directory: str, most_bytes: int) -> None:
        """Prepare to keep so much below `directory`; nothing is made before it is needed."""
        self._directory = directory
        self._most_bytes = most_bytes
        self._fd = -1
        self._end = 0

    def append(self, data: bytes) -> int:
        """Return where the data is now, -1 if there is no room for it: none is left, or the disk takes no more."""
        if self._end + len(data) > self._most_bytes:
            return -1
        try:
            if self._fd < 0:
                path = os.path.join(self._directory, "spool")
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                os.unlink(path)
            written = os.pwrite(self._fd, data, self._end)
        except OSError as error:
            note("spool: {}; the script waits for the agent".format(error))
            return -1
        if written < len(data):  # the disk is full; what is there is written over by the next
            return -1
        start, self._end = self._end, self._end + len(data)
        return start

    def read(self, start: int, count: int) -> bytes:
        return os.pread(self._fd, count, start)

    def clear(self) -> None:
        """Give the disk back: nobody needs what is in it."""
        if self._end:
            os.ftruncate(self._fd, 0)
        self._end = 0


class Entry:
    """One frame's content: bytes at an offset of a stream, in memory or in the spool, or a report with its number."""

    __slots__ = ("kind", "length", "number", "payload", "spooled_at")

    def __init__(self, kind: int, number: int, payload: bytes, spooled_at: int = -1) -> None:
        """Take the payload; where that is in the spool, from `spooled_at` on, only its length is kept."""
        self.kind = kind
        self.number = number
        self.length = len(payload)
        self.spooled_at = spooled_at
        self.payload = payload if spooled_at < 0 else b""

    @property
    def end(self) -> int:
        """What an acknowledgement must reach to cover all of it."""
        return self.number if self.kind == REPORT else self.number + self.length

    @property
    def memory_bytes(self) -> int:
        """What it weighs, roughly."""
        return ENTRY_BYTES + len(self.payload)

    def is_followed_by(self, kind: int, spooled_at: int, count: int) -> bool:
        """Tell whether spooled bytes go on where this entry ends, and one frame can take both."""
        is_next = self.kind == kind and self.spooled_at >= 0 and self.spooled_at + self.length == spooled_at
        return is_next and self.length + count <= MAX_FRAME_BYTES

    def frame_from(self, acknowledged: int, spool: Optional[SpoolFile]) -> bytes:
        """Return the frame of what is not acknowledged; empty where all is."""
        if self.end <= acknowledged:
            return b""
        cut = max(0, acknowledged - self.number) if self.kind != REPORT else 0
        if spool is not None and self.spooled_at >= 0:
            payload = spool.read(self.spooled_at + cut, self.length - cut)
        else:
            payload = self.payload[cut:] if cut else self.payload
        return FRAME_HEADER.pack(self.kind, len(payload), self.number + cut) + payload


class SendLog:
    """Output and reports that the agent does not hold durably yet, in the order in which they happened.

    Bounded: `add_output` waits for room. While the agent takes output, memory is all the room there is, so that a
    script which is faster than its agent waits, and no disk is in between; while it does not, the spool is there, too.
    Thread-safe.
    """

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._changed = threading.Condition()
        self._entries: Deque[Entry] = deque()
        self._sent_count = 0
        self._memory_bytes = 0
        self._spool: Optional[SpoolFile] = None
        self._spooled_entries = 0
        self._is_connected = False
        self._ends = {STDOUT: 0, STDERR: 0, REPORT: 0}
        self._acknowledged = {STDOUT: 0, STDERR: 0, REPORT: 0}
        self._is_closed = {STDOUT: False, STDERR: False, REPORT: False}
        self._is_sender_asleep = False
        self.wake_fd, self._wake_write_fd = os.pipe()
        os.set_blocking(self.wake_fd, False)
        os.set_blocking(self._wake_write_fd, False)

    def spool_to(self, spool: SpoolFile) -> None:
        """Keep in `spool` what memory has no room for while the agent is away."""
        with self._changed:
            self._spool = spool
            self._changed.notify_all()

    def set_connected(self, is_connected: bool) -> None:  # noqa: FBT001
        """Take note whether the agent takes output now."""
        with self._changed:
            self._is_connected = is_connected
            self._changed.notify_all()

    def add_output(self, kind: int, data: bytes) -> bool:
        """Append output, once there is room; return False if the stream has been closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed[kind] or self._try_to_add(kind, data))
            return not self._is_closed[kind]

    def try_to_add(self, kind: int, data: bytes) -> bool:
        """Append output if there is room now; return whether there was."""
        with self._changed:
            return self._try_to_add(kind, data)

    def _try_to_add(self, kind: int, data: bytes) -> bool:
        if self._memory_bytes < self._window_bytes:
            self._append(Entry(kind, self._ends[kind], data))
            return True
        if self._spool is None or not self._may_spool:
            return False
        start = self._spool.append(data)
        if start >= 0:
            self._append_spooled(kind, data, start)
        return start >= 0

    @property
    def _may_spool(self) -> bool:
        # Entries are in memory, wherever their bytes are: tiny ones of two streams in turn fill that before the disk.
        return not self._is_connected and self._spooled_entries * ENTRY_BYTES < self._window_bytes

    def add_report(self, **report: Any) -> None:
        """Append a report. Never waits."""
        with self._changed:
            self._append(Entry(REPORT, self._ends[REPORT] + 1, json.dumps(report).encode()))

    def add_last_report(self, **report: Any) -> None:
        """Close the output and append the report that says how much of it there was."""
        with self._changed:
            for kind in self._is_closed:
                self._is_closed[kind] = True
            self._changed.notify_all()
            self.add_report(stdout=self._ends[STDOUT], stderr=self._ends[STDERR], **report)

    def end(self, kind: int) -> int:
        """Return how many bytes of a stream there have been."""
        with self._changed:
            return self._ends[kind]

    @property
    def is_full(self) -> bool:
        """Whether there is no room in memory: output may wait for the agent, or go to the spool."""
        with self._changed:
            return self._memory_bytes >= self._window_bytes

    @property
    def is_complete(self) -> bool:
        """Whether the last report is in it."""
        with self._changed:
            return self._is_closed[REPORT]

    def take(self, most_bytes: int) -> bytes:
        """Return frames that are to be sent now, of about so many bytes; none where all is sent.

        After none, `wake_fd` becomes readable as soon as there are some.

        Raises:
            OSError: the spool cannot be read.
        """
        frames: List[bytes] = []
        size = 0
        with self._changed:
            while self._sent_count < len(self._entries) and size < most_bytes:
                entry = self._entries[self._sent_count]
                frames.append(entry.frame_from(self._acknowledged[entry.kind], self._spool))
                self._sent_count += 1
                size += len(frames[-1])
            self._is_sender_asleep = not size
        return b"".join(frames)

    def rewind(self) -> None:
        """Take what is not acknowledged from the beginning again: a new connection."""
        with self._changed:
            self._sent_count = 0

    def acknowledge(self, stdout: int, stderr: int, seq: int) -> None:
        """Free what the agent holds durably."""
        with self._changed:
            for kind, number in ((STDOUT, stdout), (STDERR, stderr), (REPORT, seq)):
                self._acknowledged[kind] = max(self._acknowledged[kind], number)
            while self._entries and self._entries[0].end <= self._acknowledged[self._entries[0].kind]:
                self._free(self._entries.popleft())
            self._changed.notify_all()

    def _free(self, entry: Entry) -> None:
        self._sent_count = max(0, self._sent_count - 1)
        if entry.spooled_at < 0:
            self._memory_bytes -= entry.memory_bytes
            return
        self._spooled_entries -= 1
        if self._spool is not None and not self._spooled_entries:
            self._spool.clear()

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._ends[entry.kind] = entry.end
        if entry.spooled_at < 0:
            self._memory_bytes += entry.memory_bytes
        else:
            self._spooled_entries += 1
        if self._is_sender_asleep:
            self._is_sender_asleep = False
            os.write(self._wake_write_fd, b"\0")

    def _append_spooled(self, kind: int, data: bytes, start: int) -> None:
        """Append what is in the spool, to the last entry if that has not been sent and goes on there."""
        is_last_unsent = self._sent_count < len(self._entries)
        if is_last_unsent and self._entries[-1].is_followed_by(kind, start, len(data)):
            self._entries[-1].length += len(data)
            self._ends[kind] = self._entries[-1].end
        else:
            self._append(Entry(kind, self._ends[kind], data, start))


class OutputReader(threading.Thread):
    """Moves one pipe's bytes into the send log until its end."""

    def __init__(self, fd: int, kind: int, log: SendLog, post: Callable[[str, Any], None]) -> None:
        super().__init__(name="output-{}".format(kind), daemon=True)
        self._fd = fd
        self._kind = kind
        self._log = log
        self._post = post

    def run(self) -> None:
        # Not os.read: what it returns keeps at least a page of memory, however little there was to read.
        buffer = memoryview(bytearray(MAX_FRAME_BYTES))
        count = os.readv(self._fd, [buffer])
        while count and self._log.add_output(self._kind, bytes(buffer[:count])):
            count = os.readv(self._fd, [buffer])
        os.close(self._fd)
        self._post("output_ended", self._kind)


class Upload(threading.Thread):
    """Sends the log until the agent has confirmed that all of it is durable."""

    def __init__(
        self, agent: Agent, log: SendLog, post: Callable[[str, Any], None], connection: Optional[Connection] = None
    ) -> None:
        """Prepare to send; the first time over `connection`, if there is one."""
        super().__init__(name="upload", daemon=True)
        self._agent = agent
        self._connection = connection
        self._log = log
        self._post = post
        self._back_off = BackOff()

    def run(self) -> None:
        while True:
            try:
                self._upload()
                self._post("delivered", None)
                return
            except FencedError:
                self._post("fenced", None)
                return
            except TRANSIENT as error:
                note("upload: {}".format(error))
            self._back_off.sleep()

    def _upload(self) -> None:
        """Send everything over one connection and wait for the answer.

        Raises:
            FencedError: this attempt is over.
            OSError, RefusedError, ValueError: the connection is of no more use.
        """
        connection, self._connection = self._connection or self._agent.connect(), None
        try:
            self._agent.begin_upload(connection)
            connection.sock.settimeout(0)
            self._log.rewind()
            self._log.set_connected(True)
            self._send_log(connection.sock)
            connection.sock.settimeout(NETWORK_TIMEOUT_S)
            connection.answer()
        finally:
            self._log.set_connected(False)
            connection.close()

    def _send_log(self, sock: ssl.SSLSocket) -> None:
        """Send the body: what the log holds and will hold, to the last report."""
        is_complete = False
        while True:
            frames = self._log.take(MAX_FRAME_BYTES)
            if frames:
                self._send(sock, b"%x\r\n%b\r\n" % (len(frames), frames))
            elif is_complete:
                self._send(sock, b"0\r\n\r\n")
                return
            elif not self._log.is_complete:
                self._back_off.reset()
                self._wait(sock, self._log.wake_fd)
            is_complete = self._log.is_complete

    def _send(self, sock: ssl.SSLSocket, data: bytes) -> None:
        """Send all, but notice an answer that comes before its time."""
        left = memoryview(data)
        while left:
            try:
                left = left[sock.send(left) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._wait(sock)

    def _wait(self, sock: ssl.SSLSocket, log_fd: int = -1) -> None:
        """Wait until the log has something to send, or else until the socket takes more.

        Raises:
            FencedError, RefusedError, OSError: if the agent answers, breaks off, or takes nothing for too long.
        """
        is_idle = log_fd >= 0
        poller = select.poll()
        poller.register(sock, select.POLLIN if is_idle else select.POLLIN | select.POLLOUT)
        if is_idle:
            poller.register(log_fd, select.POLLIN)
        ready = dict(poller.poll(None if is_idle else NETWORK_TIMEOUT_S * 1000))
        if not ready:
            raise TimeoutError("the agent takes no output")
        if log_fd in ready:
            os.read(log_fd, 4096)
        if ready.get(sock.fileno(), 0) & ~select.POLLOUT:
            raise_early_answer(sock)


def raise_early_answer(sock: ssl.SSLSocket) -> None:
    """Raise what an answer in mid-upload means; return if it was only TLS that had something to say."""
    try:
        answer = sock.recv(4096)
    except ssl.SSLWantReadError:
        return
    status = answer.split(b" ", 2)[1:2]
    if not status:
        raise ConnectionResetError("the agent has closed the upload")
    check_status(int(status[0]))
    raise ConnectionResetError("the agent has ended the upload before its end")


# ---------------------------------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------------------------------


def descendants(root: int) -> List[int]:
    """Return the living processes below one, as /proc shows them now; children of children included."""
    children: Dict[int, List[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent = living_parent(int(name))
            if parent is not None:
                children.setdefault(parent, []).append(int(name))
    found = list(children.get(root, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def living_parent(pid: int) -> Optional[int]:
    """Return a process's parent, None where it is a zombie or gone. Source: proc_pid_stat(5)."""
    try:
        with open("/proc/{}/stat".format(pid), "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in (b"Z", b"X") else int(parent)


class OomKills:
    """Counts what the kernel has killed, for want of memory, in the memory cgroup of this process."""

    def __init__(self) -> None:
        """Begin to count: what was killed before was none of this run's."""
        try:
            with open("/proc/self/cgroup") as cgroups, open("/proc/self/mountinfo") as mounts:
                self._path = oom_kills_file(cgroups.read(), mounts.read())
        except (OSError, ValueError):
            self._path = ""
        self._before = self._read()

    def count(self) -> int:
        """Return how many there have been; 0 where it cannot be told."""
        return max(0, self._read() - self._before)

    def _read(self) -> int:
        try:
            with open(self._path) as file:
                fields = dict(line.split(None, 1) for line in file)
        except (OSError, ValueError):
            return 0  # no cgroup, or one that is not shown here
        return int(fields.get("oom_kill", "0"))


def oom_kills_file(cgroups: str, mounts: str) -> str:
    """Return the file that counts, under `oom_kill`, what the kernel killed in the own memory cgroup; empty for none.

    Source: cgroups(7), "/proc/[pid]/cgroup"; proc(5), mountinfo; the kernel's cgroup-v1/memory.rst and cgroup-v2.rst.

    Args:
        cgroups: /proc/self/cgroup.
        mounts: /proc/self/mountinfo.
    """
    own = {}
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    # cgroup v2 is there beside v1, too, but has the memory then only if v1 has it not.
    controller, kind, name = (
        ("memory", "cgroup", "memory.oom_control") if "memory" in own else ("", "cgroup2", "memory.events")
    )
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        root, mount_point = fields.split()[3:5]
        if rest.split()[0] == kind and (not controller or controller in rest.split()[2].split(",")):
            path = own.get(controller, root)
            below = path[len(root.rstrip("/")) :] if path.startswith(root) else ""
            return "{}/{}/{}".format(mount_point, below.strip("/"), name)
    return ""


def be_killed_before_the_runner() -> None:
    """Have the kernel, where memory is short, choose this process, or a child of it, and not its runner.

    Source: proc(5), oom_score_adj. The file is root's while the process is opaque.
    """
    prctl(_PR_SET_DUMPABLE, 1)
    # Where /proc is not writable the kernel goes by size alone. Nobody can be told: standard error is the script's now.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        before = int(file.read())
        file.seek(0)
        file.write(str(min(1000, before + OOM_SCORE_ABOVE_RUNNER)))


def is_heeded(pid: int, number: int) -> bool:
    """Tell whether a process catches, ignores or blocks a signal. Source: proc_pid_status(5)."""
    try:
        with open("/proc/{}/status".format(pid), "rb") as file:
            fields = dict(line.partition(b":")[::2] for line in file)
    except (FileNotFoundError, ProcessLookupError):
        return True
    masks = (int(fields.get(name, b"0"), 16) for name in (b"SigCgt", b"SigIgn", b"SigBlk"))
    return any(mask >> (number - 1) & 1 for mask in masks)


def signal_tree(number: int) -> None:
    """Send a signal to every process of the run but this one, once."""
    if os.getpid() == 1:
        send_signal(-1, number)
        return
    for pid in descendants(os.getpid()):
        send_signal(pid, number)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to who may be gone already."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or a set-user-id program that only its namespace's end can stop


class Environment:
    """Environment entries in their own order, doubles included, in the shape that `os.execve` reads."""

    def __init__(self, entries: List[bytes]) -> None:
        pairs = [entry.partition(b"=") for entry in entries if entry.find(b"=") > 0]
        self._names = [name for name, _, _ in pairs]
        self._values = [value for _, _, value in pairs]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: bytes) -> bytes:
        return self._values[self._names.index(name)]

    def keys(self) -> List[bytes]:
        return self._names

    def values(self) -> List[bytes]:
        return self._values


class Launcher:
    """A child process that waits for its orders and becomes the script.

    It is forked while this process has one thread: what it does before execve(2) is then safe.
    """

    def __init__(self) -> None:
        orders_read, self._orders_write = os.pipe()
        self.status_fd, status_write = os.pipe()
        self.stdout_fd, stdout_write = os.pipe()
        self.stderr_fd, stderr_write = os.pipe()
        for fd in (stdout_write, stderr_write):
            # Refused when all of the account's pipes together are too large (fs.pipe-user-pages-soft: by default 64
            # MiB, so from the 33rd run on). What a pipe has is enough then, only slower.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(fd, _F_SETPIPE_SZ, MAX_FRAME_BYTES)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders_write)
            become_script(orders_read, stdout_write, stderr_write, status_write)
        for fd in (orders_read, stdout_write, stderr_write, status_write):
            os.close(fd)

    def launch(self, spec: Spec, script_path: bytes, stdin_path: str) -> None:
        """Let it become the script. `status_fd` tells: end of file when it has, before that what went wrong."""
        orders = {
            "argv": [text(argument) for argument in [script_path, *spec.argv[1:]]],
            "environment": [text(entry) for entry in with_devices(spec.environment)],
            "cwd": text(spec.cwd),
            "umask": spec.umask,
            "rlimits": spec.rlimits,
            "stdin": stdin_path,
            "is_output_joined": spec.is_output_joined,
        }
        with open(self._orders_write, "wb") as file:
            file.write(json.dumps(orders).encode())

    def cancel(self) -> None:
        """Let it end without becoming anything."""
        os.close(self._orders_write)


def with_devices(environment: List[bytes]) -> List[bytes]:
    """Return the environment with this site's devices in place of the cluster's, as far as the runner was told any.

    HTCondor says "10000" to every job without GPUs, to hide those of others, also on machines that have none: where
    there is nothing to hide, the job is told nothing, as at home.
    Source: https://htcondor.readthedocs.io/, ENVIRONMENT_VALUE_FOR_UnAssignedGPUs.
    """
    own = {name: os.environb[name] for name in DEVICE_VARIABLES if name in os.environb}
    if not any(os.path.exists(path) for path in GPU_DRIVERS):
        own = {name: value for name, value in own.items() if value != NO_GPU}
    kept = [entry for entry in environment if entry.partition(b"=")[0] not in own]
    return kept + [name + b"=" + value for name, value in own.items()]


def text(value: bytes) -> str:
    """Return bytes as JSON can carry them, one character each."""
    return value.decode("latin-1")


def become_script(orders_fd: int, stdout_fd: int, stderr_fd: int, status_fd: int) -> NoReturn:
    """Read the orders, set everything up and execve(2). Never returns."""
    try:
        with open(orders_fd, "rb") as file:
            orders = file.read()
        if orders:
            execute(json.loads(orders), stdout_fd, stderr_fd, status_fd)
    except BaseException as error:  # noqa: BLE001 (nothing of this process's own may run on)
        os.write(status_fd, "{}: {}".format(type(error).__name__, error).encode(errors="replace"))
    os._exit(1)


def execute(orders: Dict[str, Any], stdout_fd: int, stderr_fd: int, status_fd: int) -> NoReturn:
    """Become the script, in the order of slurmstepd's exec_task(): limits come last."""
    # Not a session of its own: the kernel would take its stop signals for those of an orphaned group, and drop them.
    os.setpgid(0, 0)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(orders["cwd"].encode("latin-1"))
    os.umask(orders["umask"])
    stdin_fd = os.open(orders["stdin"], os.O_RDONLY)
    os.dup2(stdin_fd, 0)
    os.dup2(stdout_fd, 1)
    os.dup2(stdout_fd if orders["is_output_joined"] else stderr_fd, 2)
    close_all_but(status_fd)
    be_killed_before_the_runner()
    argv = [argument.encode("latin-1") for argument in orders["argv"]]
    environment = [entry.encode("latin-1") for entry in orders["environment"]]
    environment = with_tmpdir(environment, lambda message: complain(environment, message))
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # KILL, STOP and those that glibc keeps to itself
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for limit, (soft, hard) in orders["rlimits"].items():
        set_limit(limit, soft, hard)
    try:
        os.execve(argv[0], argv, Environment(environment))  # type: ignore[arg-type] # noqa: S606
    except OSError as error:
        complain(environment, exec_complaint(argv[0], error))
        os._exit(error.errno or 1)


def close_all_but(kept_fd: int) -> None:
    """Close every descriptor above 2 but one: inherited ones are not all close-on-exec."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > STDERR and fd != kept_fd:
            try:
                os.close(fd)
            except OSError:
                continue  # the listing's own


def set_limit(name: str, soft: int, hard: int) -> None:
    """Set a limit as far as this process may. A limit that cannot be had is no reason not to run."""
    number = getattr(resource, "RLIMIT_" + name, None)
    if number is None:
        return
    soft, hard = (limit if 0 <= limit < UNLIMITED_FROM else resource.RLIM_INFINITY for limit in (soft, hard))
    _, own_hard = resource.getrlimit(number)
    for limits in ((soft, hard), (lower(soft, own_hard), lower(hard, own_hard))):
        try:
            resource.setrlimit(number, limits)
            return
        except (OSError, ValueError, OverflowError):
            continue


def lower(limit: int, other: int) -> int:
    """Return the lower of two limits, of which -1 is the highest."""
    return min(limit, other) if limit >= 0 and other >= 0 else max(limit, other)


# What slurmstepd says on the script's standard error, and the exit codes (errno) that go with it: seen on 22.05, 24.11
# and 26.05; task.c: exec_task(), _make_tmpdir().


def complain(environment: List[bytes], message: bytes) -> None:
    os.write(2, complaint_prefix(environment, time.time()) + b"error: " + message + b"\n")


def complaint_prefix(environment: List[bytes], now: float) -> bytes:
    """Return what slurmstepd puts before what it says: its name, since Slurm 26.05 the time (here: of this machine).

    Only the environment tells which Slurm this is: since 26.05 it says whether the job shares its nodes.
    """
    if any(entry.startswith(b"SLURM_JOB_OVERSUBSCRIBE=") for entry in environment):
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
        return "[{}.{:03d}] ".format(stamp, int(now * 1000) % 1000).encode()
    for entry in environment:
        if entry.startswith(b"SLURMD_NODENAME="):
            return b"slurmstepd-" + entry.partition(b"=")[2] + b": "
    return b"slurmstepd: "


def reason(error: OSError) -> bytes:
    return os.strerror(error.errno or errno.EIO).encode()


def with_tmpdir(environment: List[bytes], say: Callable[[bytes], None]) -> List[bytes]:
    """Return the environment with a TMPDIR that is there, made if need be."""
    path = next((entry[7:] for entry in environment if entry.startswith(b"TMPDIR=")), None)
    if path is None:
        return [*environment, b"TMPDIR=/tmp"]
    try:
        os.mkdir(path, 0o700)
        return environment
    except OSError as error:
        complaint = tmpdir_complaint(path, error)
    if not complaint:
        return environment
    say(complaint)
    say(b"Setting TMPDIR to /tmp")
    return [b"TMPDIR=/tmp" if entry.startswith(b"TMPDIR=") else entry for entry in environment]


def tmpdir_complaint(path: bytes, error: OSError) -> bytes:
    """Return what is wrong with a TMPDIR that could not be made; empty where it is usable as it is."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return b"Unable to create TMPDIR [" + path + b"]: " + reason(error)
    if not stat.S_ISDIR(mode):
        return b"TMPDIR [" + path + b"] is not a directory"
    if not os.access(path, os.X_OK | os.W_OK):
        return b"TMPDIR [" + path + b"] is not writeable"
    return b""


def exec_complaint(path: bytes, error: OSError) -> bytes:
    """Return what execve(2) failed with. A script that is there lacks its interpreter."""
    if error.errno == errno.ENOENT:
        try:
            with open(path, "rb") as file:
                head = file.read(256)
        except OSError:
            head = b""
        if head.startswith(b"#!"):
            return b"execve(): bad interpreter(" + head[2:255].partition(b"\n")[0] + b"): " + reason(error)
    return b"execve(): " + path + b": " + reason(error)


class ScriptFile:
    """The script at its path of home, or in the runner's own directory where that path is taken or not to be had.

    At home it lies in a directory of its own, in which the user can change nothing. So it does here.
    """

    def __init__(self, wanted_path: bytes, script: bytes, own_directory: str) -> None:
        """Write it.

        Raises:
            OSError: not even in the runner's own directory.
        """
        self._closed_directory: Optional[bytes] = None
        try:
            os.makedirs(os.path.dirname(wanted_path), 0o755, exist_ok=True)
            self.path = self._write(wanted_path, script)
        except OSError as error:
            note("script: {}; kept in {}".format(error, own_directory))
            self.path = self._write(os.fsencode(os.path.join(own_directory, "slurm_script")), script)
            return
        self._close_directory(os.path.dirname(wanted_path))

    def _close_directory(self, directory: bytes) -> None:
        """Take away the right to write where nothing else lies, and where it is the user's to take."""
        if len(os.listdir(directory)) > 1:
            return
        try:
            os.chmod(directory, 0o500)
        except OSError as error:
            note("script: {}".format(error))
        else:
            self._closed_directory = directory

    @staticmethod
    def _write(path: bytes, script: bytes) -> bytes:
        if os.statvfs(os.path.dirname(path)).f_flag & os.ST_NOEXEC:
            raise PermissionError(errno.EACCES, "nothing may be executed there", path)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o700)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o700)
            file.write(script)
        return path

    def remove(self) -> None:
        """Remove it, as slurmd does."""
        try:
            if self._closed_directory is not None:
                os.chmod(self._closed_directory, 0o700)
            os.unlink(self.path)
        except OSError as error:
            note("script: {}".format(error))


# ---------------------------------------------------------------------------------------------------------------------
# The supervisor
# ---------------------------------------------------------------------------------------------------------------------


class Clock:
    """The script's time limit, which stands still while the script is suspended, and the agent's lease."""

    def __init__(self, now: float) -> None:
        self._time_limit_grace_s = 0
        self._lease_s = STARTUP_LEASE_S
        self.lease_until = now + STARTUP_LEASE_S
        self._time_limit_s: Optional[int] = None
        self._began_at: Optional[float] = None
        self._suspended_at: Optional[float] = None

    def set_lease(self, lease_s: float, now: float) -> None:
        self._lease_s = lease_s
        self.renew(now)

    def renew(self, now: float) -> None:
        """Take note that the agent knows of the run."""
        self.lease_until = now + self._lease_s

    def start(self, time_limit_s: int, grace_s: int, now: float) -> None:
        """Begin to count, by this limit if none has been set meanwhile; 0 is none.

        Slurm enforces the limit; the runner does only where Slurm has not within the grace, for want of a connection.
        """
        self._began_at = now
        self._time_limit_grace_s = grace_s
        if self._time_limit_s is None:
            self._time_limit_s = time_limit_s

    def set_limit(self, time_limit_s: int) -> None:
        """Count by another limit, from the same start; 0 is none."""
        self._time_limit_s = time_limit_s

    def suspend(self, now: float) -> None:
        if self._suspended_at is None:
            self._suspended_at = now

    def resume(self, now: float) -> None:
        if self._suspended_at is not None and self._began_at is not None:
            self._began_at += now - self._suspended_at
        self._suspended_at = None

    @property
    def limit_at(self) -> Optional[float]:
        """When the script is to be ended; None where it is not."""
        if self._suspended_at is not None or self._began_at is None or not self._time_limit_s:
            return None
        return self._began_at + self._time_limit_s + self._time_limit_grace_s


class Supervisor:
    """Decides what happens to the script and its processes. Everything here runs in the main thread."""

    def __init__(self, agent: Agent, directory: str, launcher: Launcher) -> None:
        self._agent = agent
        self._directory = directory
        self._launcher = launcher
        self._log = SendLog()
        self._oom_kills = OomKills()
        self._inbox: Deque[Tuple[str, Any]] = deque()
        self._connection: Optional[Connection] = None
        self._wake_fd, self._wake_write_fd = os.pipe()
        for fd in (self._wake_fd, self._wake_write_fd):
            os.set_blocking(fd, False)
        self._clock = Clock(now_s())
        self._spec: Optional[Spec] = None
        self._script_file: Optional[ScriptFile] = None
        self._is_launched = False
        self._is_started = False
        self._handlers_due_at = 0.0
        self._held_signals: List[Dict[str, Any]] = []
        self._last_signal_seq = 0
        self._wait_status: Optional[int] = None
        self._has_sent_kill = False
        self._report_due_at = 0.0
        self._has_children = True
        self._is_killing = False
        self._kill_at: Optional[float] = None
        self._open_outputs = {STDOUT, STDERR}
        self._progress: Tuple[int, int, float] = (0, 0, 0.0)
        self._error = ""
        self._is_timed_out = False
        self._is_lease_lost = False
        self._is_fenced = False
        self._give_up_at: Optional[float] = None
        self._is_reported = False
        self._exit_code: Optional[int] = None

    def run(self) -> int:
        """Run the script to its end and report it; return the runner's exit code."""
        signal.set_wakeup_fd(self._wake_write_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda number, _frame: self._inbox.append(("terminate", number)))
        Preparation(self._agent, self._directory, self.post).start()
        Events(self._agent, self.post).start()
        while self._exit_code is None:
            self._wait()
            self._take_messages()
            self._deliver_held(now_s())
            self._reap()
            self._watch_clocks(now_s())
            self._advance(now_s())
        if self._script_file is not None:
            self._script_file.remove()
        return self._exit_code

    def post(self, kind: str, value: Any) -> None:
        """Tell the supervisor something, from any thread."""
        self._inbox.append((kind, value))
        try:
            os.write(self._wake_write_fd, b"\0")
        except BlockingIOError:
            return  # it has enough to wake up for

    # Waiting

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        if self._is_launched and not self._is_started:
            poller.register(self._launcher.status_fd, select.POLLIN)
        for fd, _ in poller.poll(self._timeout_ms()):
            if fd == self._wake_fd:
                os.read(fd, 4096)
            else:
                self._take_launch_status()

    def _timeout_ms(self) -> float:
        now = now_s()
        deadlines = [self._clock.lease_until if not self._is_lease_lost else None]
        deadlines += [self._clock.limit_at, self._kill_at, self._give_up_at]
        if self._held_signals and self._is_started:
            deadlines.append(now + _HANDLER_POLL_S)
        if self._is_killing and self._has_children:
            deadlines.append(now + KILL_AGAIN_S)
        elif not self._has_children and not self._is_reported:
            deadlines.append(now + DRAIN_S / 5)
        nearest = min(deadline for deadline in [*deadlines, now + 3600.0] if deadline is not None)
        return max(0.0, nearest - now) * 1000 + 1

    # What the other threads tell

    def _take_messages(self) -> None:
        while self._inbox:
            kind, value = self._inbox.popleft()
            if kind == "prepared":
                self._launch(*value)
            elif kind == "fenced":
                self._is_fenced = True
                self._stop("another attempt has taken over")
            elif kind == "terminate":
                self._terminate(value)
            elif kind == "output_ended":
                self._open_outputs.discard(value)
            elif kind == "delivered":
                self._exit_code = EXIT_LEASE_LOST if self._is_lease_lost else EXIT_DELIVERED
            else:
                self._take_event(kind, value)

    def _take_event(self, name: str, data: Dict[str, Any]) -> None:
        self._clock.renew(now_s())
        if name in ("hello", "ack"):
            self._log.acknowledge(int(data["stdout"]), int(data["stderr"]), int(data["seq"]))
        elif name == "signal":
            self._hold(data)
        elif name == "limit":
            self._clock.set_limit(int(data["time_limit_s"]))
        elif name == "stop":
            self._stop("stopped on request")

    def _launch(self, spec: Spec, script: bytes, stdin_path: str, connection: Connection) -> None:
        self._connection = connection
        self._spec = spec
        self._clock.set_lease(spec.lease_s, now_s())
        self._log.spool_to(SpoolFile(self._directory, spec.spool_bytes))
        if self._error:
            return
        try:
            self._script_file = ScriptFile(spec.argv[0], script, self._directory)
        except OSError as error:
            self._fail(str(error))
            return
        try:
            os.makedirs(spec.cwd, 0o755, exist_ok=True)
        except OSError as error:
            name = spec.cwd.decode(errors="backslashreplace")
            self._fail("the working directory {} cannot be made at this site: {}".format(name, error.strerror))
            return
        self._launcher.launch(spec, self._script_file.path, stdin_path)
        self._is_launched = True
        self._start_upload()

    def _take_launch_status(self) -> None:
        """Take note that the launcher has become the script, or could not."""
        complaint = os.read(self._launcher.status_fd, 4096)
        self._is_started = True
        if complaint:
            self._error = complaint.decode(errors="replace")
            self._open_outputs.clear()
            return
        self._log.add_report(kind="started", pid=self._launcher.pid)
        if self._spec is not None:
            self._clock.start(self._spec.time_limit_s, self._spec.time_limit_grace_s, now_s())
        OutputReader(self._launcher.stdout_fd, STDOUT, self._log, self.post).start()
        OutputReader(self._launcher.stderr_fd, STDERR, self._log, self.post).start()
        self._handlers_due_at = now_s() + HANDLER_S

    # What is done to the processes

    def _fail(self, error: str) -> None:
        """End a run whose script has not been started, and never will be."""
        if not self._error:
            note(error)
            self._error = error
            self._open_outputs.clear()
            self._launcher.cancel()

    def _stop(self, why: str) -> None:
        if self._is_launched:
            self._is_killing = True
        else:
            self._fail(why + " before the script was started")

    def _terminate(self, number: int) -> None:
        if self._is_launched:
            signal_tree(number)
        else:
            self._fail("the runner was told to end before the script was started")

    def _hold(self, data: Dict[str, Any]) -> None:
        """Take a signal of the agent, once, to be delivered as soon as the script is there for it."""
        if int(data["seq"]) > self._last_signal_seq:
            self._last_signal_seq = int(data["seq"])
            self._held_signals.append(data)

    def _deliver_held(self, now: float) -> None:
        held, self._held_signals = self._held_signals, []
        for data in held:
            if self._is_too_early(data, now):
                self._held_signals.append(data)
            else:
                self._deliver(data)

    def _is_too_early(self, data: Dict[str, Any], now: float) -> bool:
        """Tell whether there is no script yet, or one that may still be about to set its handlers."""
        if self._wait_status is not None:
            return False
        if not self._is_started:
            return True
        is_young = data["scope"] == "shell" and now < self._handlers_due_at
        return is_young and not is_heeded(self._launcher.pid, int(data["signal"]))

    def _deliver(self, data: Dict[str, Any]) -> None:
        """Deliver a signal, and say so."""
        seq, number = int(data["seq"]), int(data["signal"])
        self._has_sent_kill |= number == signal.SIGKILL
        if data["scope"] == "tree":
            if number == signal.SIGSTOP:
                self._clock.suspend(now_s())
            elif number == signal.SIGCONT:
                self._clock.resume(now_s())
            signal_tree(number)
        elif self._wait_status is None:
            send_signal(self._launcher.pid, number)
        self._log.add_report(kind="signalled", seq=seq)

    def _reap(self) -> None:
        """Collect every process that has ended, the script's orphans included."""
        while self._has_children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._has_children = False
                return
            if pid == 0:
                return
            if pid == self._launcher.pid:
                self._wait_status = status
                leftovers_end_at = now_s() + LEFTOVER_S
                self._kill_at = min(self._kill_at or leftovers_end_at, leftovers_end_at)
                is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                if is_killed and not (self._has_sent_kill or self._is_killing):
                    self._report_due_at = now_s() + KILLED_ALONE_S

    def _watch_clocks(self, now: float) -> None:
        if self._clock.lease_until <= now and not self._is_lease_lost:
            note("the lease is over: the agent has not been heard for too long")
            self._is_lease_lost = True
            self._give_up_at = now + LAST_WORD_S
            self._stop("the lease ended")
        if self._clock.limit_at is not None and self._clock.limit_at <= now and not self._is_timed_out:
            note("the time limit is over, and Slurm has not ended the job")
            self._is_timed_out = True
            self._kill_at = now + (self._spec.kill_wait_s if self._spec else 0)
            signal_tree(signal.SIGCONT)
            signal_tree(signal.SIGTERM)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            self._is_killing = True

    # The end

    def _advance(self, now: float) -> None:
        """Go on towards the end as far as it is due: nobody left, output complete, reported, delivered."""
        if self._is_killing and self._has_children:
            signal_tree(signal.SIGKILL)
            self._reap()
        if self._has_children:
            return
        if self._is_fenced:
            self._exit_code = EXIT_FENCED
        elif self._give_up_at is not None and self._give_up_at <= now:
            self._exit_code = EXIT_LEASE_LOST
        elif not self._is_reported and now >= self._report_due_at and self._is_drained(now):
            self._report_end()

    def _is_drained(self, now: float) -> bool:
        """Tell whether no more output is to come, or none that anybody will ever take."""
        if not self._open_outputs:
            return True
        is_full = self._log.is_full
        if is_full and self._is_lease_lost:
            return True
        ends = (self._log.end(STDOUT), self._log.end(STDERR))
        if is_full or ends != self._progress[:2] or not self._progress[2]:
            self._progress = (*ends, now)
        return now - self._progress[2] >= DRAIN_S

    def _report_end(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        report: Dict[str, Any] = {
            "kind": "ended",
            "timed_out": self._is_timed_out,
            "lease_lost": self._is_lease_lost,
            "oom_kills": self._oom_kills.count(),
            "user_cpu_ms": round(usage.ru_utime * 1000),
            "system_cpu_ms": round(usage.ru_stime * 1000),
            "max_rss_kib": usage.ru_maxrss,
        }
        if self._error:
            report["error"] = self._error
        elif self._wait_status is not None and os.WIFSIGNALED(self._wait_status):
            report["signal"] = os.WTERMSIG(self._wait_status)
        elif self._wait_status is not None:
            report["exit_code"] = os.WEXITSTATUS(self._wait_status)
        self._log.add_last_report(**report)
        self._is_reported = True
        if not self._is_launched:
            self._start_upload()

    def _start_upload(self) -> None:
        Upload(self._agent, self._log, self.post, self._connection).start()


OPTIONS = {
    "--url": "the agent's runner channel, https://host:port",
    "--run": "the run's id",
    "--attempt": "number of the attempt",
    "--token-file": "bearer token; its directory is the runner's own",
    "--ca-file": "certificates that the agent's is checked against",
}


def become_opaque() -> None:
    """Keep the script, which has the same user, from taking this process's descriptors, memory or control.

    The launcher is transparent again as soon as it is the script: execve(2) sees to it. Source: ptrace(2), "Ptrace
    access mode checking".
    """
    if not prctl(_PR_SET_DUMPABLE, 0):
        note("this Python has no ctypes: the script can look into its runner")


def parse_options(arguments: List[str]) -> Dict[str, str]:
    """Return the options by name; print the usage and end where they are not what a runner needs."""
    options = dict(zip(arguments[::2], arguments[1::2]))  # noqa: B905 (3.8 has no `strict`; the length is checked)
    if len(arguments) % 2 or options.keys() != OPTIONS.keys():
        for name, meaning in OPTIONS.items():
            sys.stderr.write("  {:<20} {}\n".format(name, meaning))
        sys.exit("An agent starts this, to run one batch script, with each option above followed by its value.")
    return options


def main() -> None:
    """Run the runner."""
    become_opaque()
    options = parse_options(sys.argv[1:])
    launcher = Launcher()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with open(options["--token-file"]) as file:
        token = file.read().strip()
    os.unlink(options["--token-file"])  # before there is a script that could read it
    agent = Agent(options["--url"], options["--run"], int(options["--attempt"]), token, options["--ca-file"])
    directory = os.path.dirname(os.path.abspath(options["--token-file"]))
    try:
        exit_code = Supervisor(agent, directory, launcher).run()
    finally:
        signal_tree(signal.SIGKILL)
    # Not sys.exit: threads that sleep in a network call would make the interpreter's end long or loud.
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    main()
