"""A relay's end of the proxy's socket, driven step by step by a test, and the real proxy as slurmstepd execs it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from overspill.proxy_framing import (
    HEADER,
    OFFSET,
    OFFSETS,
    OUTPUT,
    SIGNAL,
    STDOUT,
    FrameType,
    decode_header,
    encode,
)

PROXY = Path(__file__).parents[2] / "slurm_plugin/overspill_proxy/__main__.py"
TIMEOUT_S = 20.0


class Peer:
    """One accepted connection of a proxy."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(TIMEOUT_S)
        self.hello: dict[str, Any] = {}
        self.script = b""
        self.argv: list[bytes] = []
        self.environment: list[bytes] = []

    def take_opening(self) -> None:
        """Read HELLO, SCRIPT, ARGV, ENV."""
        self.hello = json.loads(self.take(FrameType.HELLO))
        self.hello["cwd"] = base64.b64decode(self.hello["cwd"])
        self.script = self.take(FrameType.SCRIPT)
        self.argv = self.take(FrameType.ARGV).split(b"\0")
        self.environment = self.take(FrameType.ENV).split(b"\0")

    def take(self, expected: FrameType) -> bytes:
        """Return the payload of the next frame, which must be of this type; acknowledgements are passed over."""
        frame_type, length = decode_header(self._exactly(HEADER.size))
        payload = self._exactly(length)
        if frame_type is FrameType.ACK and expected is not FrameType.ACK:
            return self.take(expected)
        assert frame_type is expected, (frame_type, payload[:200])
        return payload

    def take_signal(self) -> tuple[int, int]:
        """Return the sequence number and the number of the next signal."""
        seq, number = SIGNAL.unpack(self.take(FrameType.SIGNAL))
        return seq, number

    def take_acknowledgements_to(self, stdout: int, stderr: int = 0) -> None:
        """Read acknowledgements until so much is written."""
        while OFFSETS.unpack(self.take(FrameType.ACK)) != (stdout, stderr):
            pass

    def send(self, frame_type: FrameType, payload: bytes = b"") -> None:
        self._socket.sendall(encode(frame_type, payload))

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def output(self, data: bytes, offset: int = 0, stream: int = STDOUT) -> None:
        self.send(FrameType.OUTPUT, OUTPUT.pack(stream, offset) + data)

    def acknowledge_signal(self, seq: int) -> None:
        self.send(FrameType.SIGNAL_ACK, OFFSET.pack(seq))

    def end(self, **end: object) -> None:
        self.send(FrameType.END, json.dumps(end).encode())

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            assert piece, "the proxy has closed the connection"
            data += piece
        return bytes(data)


class ProxyRig:
    """A listening socket and one proxy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # Not in `directory`: pytest's names are longer than a socket's path may be.
        self._socket_directory = tempfile.TemporaryDirectory(prefix="overspill-relay-")
        self.socket_path = Path(self._socket_directory.name) / "relay.sock"
        self.script_path = directory / "slurm_script"
        self.script_path.write_bytes(b"#!/bin/bash\n: \xff\xfe\n")
        self.stdout_path = directory / "out"
        self.stderr_path = directory / "err"
        self._listener: socket.socket | None = None
        self._peers: list[Peer] = []
        self._proxy: subprocess.Popen[bytes] | None = None

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket_path))
        self._listener.listen()
        self._listener.settimeout(TIMEOUT_S)

    def stop_listening(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self._listener = None
        self.socket_path.unlink()

    def accept(self) -> Peer:
        """Return the proxy's next connection, opened."""
        assert self._listener is not None
        peer = Peer(self._listener.accept()[0])
        self._peers.append(peer)
        peer.take_opening()
        return peer

    def start(
        self,
        *arguments: bytes,
        environment: dict[bytes, bytes] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        is_joined: bool = False,
        command: list[str] | None = None,
    ) -> None:
        """Start the proxy as spank_overspill.so does.

        Args:
            arguments: the user's, after the script.
            environment: exactly what the job has; SLURM_JOB_ID=7 if None.
            stdin: descriptor or file.
            stdout: the same; the file `out` if None.
            is_joined: one file for both.
            command: what execs the proxy, to change its surroundings.
        """
        with self.stdout_path.open("ab") as out, self.stderr_path.open("ab") as err:
            self._proxy = subprocess.Popen(
                [
                    *(command or []),
                    *("/usr/bin/python3", "-I", "-S", str(PROXY), str(self.socket_path), str(self.script_path)),
                    *arguments,
                ],
                env={b"SLURM_JOB_ID": b"7"} if environment is None else environment,
                stdin=stdin,
                stdout=out if stdout is None else stdout,
                stderr=subprocess.STDOUT if is_joined else err,
                cwd=self.directory,
            )

    @property
    def pid(self) -> int:
        assert self._proxy is not None
        return self._proxy.pid

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return how the proxy ended: its exit code, or minus the signal."""
        assert self._proxy is not None
        return self._proxy.wait(TIMEOUT_S)

    @property
    def is_alive(self) -> bool:
        return self._proxy is not None and self._proxy.poll() is None

    @property
    def stdout(self) -> bytes:
        return self.stdout_path.read_bytes()

    @property
    def stderr(self) -> bytes:
        return self.stderr_path.read_bytes()

    def close(self) -> None:
        if self._proxy is not None:
            with contextlib.suppress(ProcessLookupError):
                self.kill(signal.SIGKILL)
            self._proxy.wait()
        if self._listener is not None:
            self._listener.close()
        for peer in self._peers:
            peer.close()
        self._socket_directory.cleanup()


@contextlib.contextmanager
def proxy_rig(directory: Path, *, is_listening: bool = True) -> Iterator[ProxyRig]:
    """Give a rig without a proxy; leave nothing behind."""
    rig = ProxyRig(directory)
    if is_listening:
        rig.listen()
    try:
        yield rig
    finally:
        rig.close()
