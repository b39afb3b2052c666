"""One proxy's connection: frames in and out, and who is at the other end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from overspill.proxy_framing import HEADER, MAX_OPENING_BYTES, OUTPUT, FrameType, FramingError, decode_header, encode

#: A hello is some hundred bytes; nothing longer is read from somebody who has not been verified yet.
_MAX_HELLO_BYTES = 64 * 1024
#: What may lie unsent before the agent is asked for no more: two chunks, so that the socket never runs dry.
_SEND_BUFFER_BYTES = 2 * 1024 * 1024
#: struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("3i")


class ProxyGoneError(Exception):
    """The proxy closed its end, or sent what is no frame."""


class Hello(BaseModel):
    """The first frame; see `overspill.proxy_framing`. `stdout` and `stderr` count bytes in the user's files."""

    model_config = ConfigDict(frozen=True)

    protocol: Literal[1]
    slurm_job_id: int = Field(gt=0, lt=2**32)
    restart_count: NonNegativeInt
    cwd: Base64Bytes
    umask: int = Field(ge=0, le=0o777)
    rlimits: dict[str, tuple[int, int]]
    has_stdin: bool
    is_output_joined: bool
    stdout: NonNegativeInt
    stderr: NonNegativeInt
    #: An older proxy does not tell.
    was_handed_over: bool = True


@dataclass(frozen=True, slots=True)
class Payload:
    """The rest of the opening: what is to be run."""

    script: bytes
    argv: list[bytes]
    environment: list[bytes]


class ProxyConnection:
    """Owns the socket. Reading and writing go on independently; each is one task's business."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(high=_SEND_BUFFER_BYTES)

    @property
    def user_id(self) -> int:
        """The uid at the other end, by the kernel's word."""
        endpoint: socket.socket = self._writer.get_extra_info("socket")
        credentials = endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, user_id, _ = _UCRED.unpack(credentials)
        return int(user_id)

    async def read_frame(self, max_bytes: Mapping[FrameType, int]) -> tuple[FrameType, bytes]:
        """Return the next frame.

        Args:
            max_bytes: the types that may come now, and how long their payloads may be.

        Raises:
            ProxyGoneError: at the end of the stream.
            FramingError: if what comes is no frame, or another one than may come.
        """
        try:
            frame_type, length = decode_header(await self._reader.readexactly(HEADER.size))
            if frame_type not in max_bytes:
                raise FramingError(f"{frame_type.name} came where {', '.join(kind.name for kind in max_bytes)} may")
            if length > max_bytes[frame_type]:
                raise FramingError(f"{frame_type.name} of {length} bytes, at most {max_bytes[frame_type]} are taken")
            return frame_type, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ProxyGoneError("the proxy closed its connection") from error

    async def read_hello(self) -> Hello:
        """Return the first frame's facts.

        Raises:
            FramingError: if it is no hello.
            ProxyGoneError: at the end of the stream.
        """
        _, payload = await self.read_frame({FrameType.HELLO: _MAX_HELLO_BYTES})
        try:
            return Hello.model_validate_json(payload)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
            raise FramingError(f"no usable HELLO: {fields or 'not JSON'}") from None

    async def read_payload(self) -> Payload:
        """Return what follows the hello, at most `MAX_OPENING_BYTES`. The caller has verified whose job it is.

        Raises:
            FramingError: if the frames are others than those of an opening.
            ProxyGoneError: at the end of the stream.
        """
        parts = []
        left = MAX_OPENING_BYTES
        for expected in (FrameType.SCRIPT, FrameType.ARGV, FrameType.ENV):
            _, payload = await self.read_frame({expected: left})
            left -= len(payload)
            parts.append(payload)
        return Payload(parts[0], parts[1].split(b"\0"), parts[2].split(b"\0") if parts[2] else [])

    async def send(self, frame_type: FrameType, payload: bytes) -> None:
        """Send one small frame."""
        await self._write(encode(frame_type, payload))

    async def send_output(self, stream: int, offset: int, data: bytes) -> None:
        """Send output; returns when there is room for more, which may be as late as the user's file takes it."""
        length = OUTPUT.size + len(data)
        await self._write(b"".join((HEADER.pack(length, FrameType.OUTPUT), OUTPUT.pack(stream, offset), data)))

    def close(self) -> None:
        """Close once what is unsent has been taken; the proxy reads it to the end before it sees the close."""
        self._writer.close()

    async def _write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise ProxyGoneError("the proxy closed its connection") from error
