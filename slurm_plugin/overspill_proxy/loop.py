"""The proxy's one loop: the relay's socket, the caught signals, the user's files. It sleeps while nothing happens."""

from __future__ import annotations

import select
import time

from overspill.proxy_framing import OFFSET, OFFSETS, STDERR, STDOUT, FrameType, FramingError, encode
from overspill_proxy import ending
from overspill_proxy.output import Output
from overspill_proxy.relay import Connection
from overspill_proxy.signals import ENDING, CaughtSignals, UnacknowledgedSignals
from overspill_proxy.stdin import StandardInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overspill_proxy.job import Job
    from overspill_proxy.relay import Frame

_FIRST_BACK_OFF_S = 0.05
_LONGEST_BACK_OFF_S = 2.0
#: The relay hears of written bytes at least this often, and whenever there is nothing more to be written.
_ACKNOWLEDGE_BYTES = 1024 * 1024


class Proxy:
    """One diverted job, from its hello to its end."""

    def __init__(self, socket_path: str, job: Job) -> None:
        self._socket_path = socket_path
        self._job = job
        self._signals = CaughtSignals()
        self._kept_signals = UnacknowledgedSignals()
        self._outputs = {STDOUT: Output(1), STDERR: Output(2)}
        self._stdin = StandardInput()
        self._stdin_offset: int | None = None
        self._connection: Connection | None = None
        self._connect_at = 0.0
        self._back_off_s = _FIRST_BACK_OFF_S
        self._was_handed_over = False
        self._acknowledged = (0, 0)
        self._end: ending.Ending | None = None

    def run(self) -> ending.Ending:
        """Return how to end. Takes as long as the script does."""
        while self._end is None:
            if self._connection is None and time.monotonic() >= self._connect_at:
                self._connect()
            ready = self._wait()
            try:
                self._step(ready)
            except (OSError, ValueError):
                # The connection broke, or its other end makes no sense. A new one goes on where this one stopped.
                self._disconnect()
        return ending.with_loss(self._end, [output.loss() for output in self._outputs.values()])

    def _step(self, ready: dict[int, int]) -> None:
        """Do what can be done now.

        Raises:
            OSError: if the connection is broken.
            ValueError: if the relay sends what makes no sense.
        """
        for number in self._signals.take():
            self._take_signal(number)
        now = time.monotonic()
        for output in self._outputs.values():
            output.flush(now)
        connection = self._connection
        if connection is None or self._end is not None:
            return
        is_readable = bool(ready.get(connection.fileno())) and not self._is_blocked
        is_open = connection.receive() if is_readable else True
        self._take_frames(connection)
        if not is_open and self._end is None:
            raise ConnectionResetError
        self._acknowledge(connection, is_idle=not is_readable)
        self._send_stdin(connection, is_stdin_readable=0 in ready)
        connection.flush()

    # Waiting

    @property
    def _is_blocked(self) -> bool:
        """Whether a user's file takes nothing now: then nothing more is read from the relay."""
        return any(output.is_pending for output in self._outputs.values())

    def _wait(self) -> dict[int, int]:
        """Sleep until there is something to do; return the descriptors that are ready, with their events."""
        poller = select.poll()
        poller.register(self._signals.fd, select.POLLIN)
        for output in self._outputs.values():
            if output.waits_for_room:
                poller.register(output.fd, select.POLLOUT)
        if self._connection is not None:
            wanted = 0 if self._is_blocked else select.POLLIN
            if self._connection.has_unsent or (self._stdin_offset is not None and not self._is_stdin_awaited):
                wanted |= select.POLLOUT
            if wanted:
                poller.register(self._connection.fileno(), wanted)
            if self._is_stdin_awaited:
                poller.register(0, select.POLLIN)
        return dict(poller.poll(self._timeout_ms()))

    def _timeout_ms(self) -> float | None:
        if self._connection is not None and self._written != self._acknowledged and not self._connection.has_unsent:
            return 0
        times = [output.retry_at for output in self._outputs.values() if output.waits_for_retry]
        if self._connection is None:
            times.append(self._connect_at)
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None

    # The connection

    @property
    def _written(self) -> tuple[int, int]:
        return (self._outputs[STDOUT].offset, self._outputs[STDERR].offset)

    def _connect(self) -> None:
        stdout, stderr = self._written
        opening = self._job.opening(
            has_stdin=not self._stdin.is_null, stdout=stdout, stderr=stderr, was_handed_over=self._was_handed_over
        )
        try:
            self._connection = Connection(self._socket_path, opening)
        except OSError:
            self._disconnect()
            return
        self._connection.send(self._kept_signals.frames())
        self._acknowledged = (stdout, stderr)

    def _disconnect(self) -> None:
        self._was_handed_over = self._is_handed_over
        self._stdin_offset = None
        if self._connection is not None:
            if self._connection.has_spoken:
                self._back_off_s = _FIRST_BACK_OFF_S
            self._connection.close()
            self._connection = None
        self._connect_at = time.monotonic() + self._back_off_s
        self._back_off_s = min(_LONGEST_BACK_OFF_S, self._back_off_s * 2)

    @property
    def _is_handed_over(self) -> bool:
        """Whether a relay may have submitted the job: it has been sent a whole opening."""
        return self._was_handed_over or (self._connection is not None and self._connection.is_opened)

    # To the relay

    def _take_signal(self, number: int) -> None:
        """Send a signal on. One that is to end the job ends it here and now if nobody else knows of it."""
        if not self._is_handed_over and number in ENDING:
            self._end = ending.Ending(signal_number=number)
            return
        frame = self._kept_signals.add(number, is_connected=self._connection is not None)
        if self._connection is not None:
            self._connection.send(frame)

    def _acknowledge(self, connection: Connection, *, is_idle: bool) -> None:
        written = self._written
        unacknowledged_bytes = sum(written) - sum(self._acknowledged)
        is_due = is_idle or self._is_blocked or unacknowledged_bytes >= _ACKNOWLEDGE_BYTES
        if unacknowledged_bytes and is_due and not connection.has_unsent and self._end is None:
            connection.send(encode(FrameType.ACK, OFFSETS.pack(*written)))
            self._acknowledged = written

    @property
    def _is_stdin_awaited(self) -> bool:
        return self._stdin_offset is not None and self._stdin.waits_for_data(self._stdin_offset)

    def _send_stdin(self, connection: Connection, *, is_stdin_readable: bool) -> None:
        """Send one piece of standard input, where it is asked for, there and does not have to be queued."""
        if self._is_stdin_awaited and is_stdin_readable:
            self._stdin.copy()
        if self._stdin_offset is None or self._is_stdin_awaited or connection.has_unsent:
            return
        data = self._stdin.chunk(self._stdin_offset)
        connection.send(encode(FrameType.STDIN, OFFSET.pack(self._stdin_offset) + data))
        self._stdin_offset = self._stdin_offset + len(data) if data else None

    # From the relay

    def _take_frames(self, connection: Connection) -> None:
        while self._end is None and not self._is_blocked:
            frame = connection.frames.next()
            if frame is None:
                return
            self._take_frame(frame)

    def _take_frame(self, frame: Frame) -> None:
        if frame.type is FrameType.OUTPUT:
            output = self._outputs.get(frame.stream)
            if output is None:
                raise FramingError(f"there is no output stream {frame.stream}")
            output.give(frame.offset, frame.data)
            output.flush(time.monotonic())
        elif frame.type is FrameType.SIGNAL_ACK:
            self._kept_signals.acknowledge(_number(frame))
        elif frame.type is FrameType.STDIN_FROM:
            self._stdin_offset = _number(frame)
        elif frame.type is FrameType.END:
            self._end = ending.parse(frame.data)
        else:
            raise FramingError(f"{frame.type.name} is not the relay's to send")


def _number(frame: Frame) -> int:
    if len(frame.data) != OFFSET.size:
        raise FramingError(f"{frame.type.name} of {len(frame.data)} bytes")
    number: int = OFFSET.unpack(frame.data)[0]
    return number
