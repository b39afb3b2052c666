"""The real proxy and the user's files: every byte once, in order, whatever happens to the relay."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from overspill.proxy_framing import OUTPUT, STDERR, STDOUT, FrameType, encode
from tests.integration.proxy_relay import Peer, ProxyRig, proxy_rig


def test_100_mb_arrive_unchanged(tmp_path: Path) -> None:
    block = os.urandom(1 << 20)
    with proxy_rig(tmp_path) as rig:
        rig.start()
        peer = rig.accept()
        reader = threading.Thread(target=peer.take_acknowledgements_to, args=(100 << 20,))
        reader.start()
        for i in range(100):
            peer.output(i.to_bytes(4, "big") + block[4:], i << 20)
        reader.join()
        peer.end(exit_code=0)
        assert rig.wait() == 0
    expected = hashlib.sha256(b"".join(i.to_bytes(4, "big") + block[4:] for i in range(100)))
    assert hashlib.sha256(rig.stdout).digest() == expected.digest()


@pytest.mark.parametrize("seed", range(5))
def test_relay_that_dies_anywhere_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    """Each connection ends after a random number of bytes, in mid-frame too, and the next relay knows nothing."""
    dice = random.Random(seed)  # noqa: S311 (no secret)
    streams = {STDOUT: dice.randbytes(3_000_000), STDERR: dice.randbytes(1_000_000)}
    with proxy_rig(tmp_path) as rig:
        rig.start()
        for _ in range(8):
            peer = rig.accept()
            frames = rest_of(streams, peer, dice)
            peer.send_raw(frames[: dice.randrange(len(frames) + 1)])
            peer.close()
        peer = rig.accept()
        peer.send_raw(rest_of(streams, peer, dice))
        peer.end(exit_code=0)
        assert rig.wait() == 0
    assert rig.stdout == streams[STDOUT]
    assert rig.stderr == streams[STDERR]


def rest_of(streams: dict[int, bytes], peer: Peer, dice: random.Random) -> bytes:
    """Return frames of all that is missing and some of what is not, cut at random."""
    frames = []
    for stream, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        position = max(0, peer.hello[name] - dice.randrange(5000))
        while position < len(streams[stream]):
            size = dice.randrange(1, 200_000)
            payload = OUTPUT.pack(stream, position) + streams[stream][position : position + size]
            frames.append(encode(FrameType.OUTPUT, payload))
            position += size
    return b"".join(frames)


def test_what_is_written_is_acknowledged_at_once_when_nothing_follows(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start()
        peer = rig.accept()
        peer.output(b"a line\n")
        peer.take_acknowledgements_to(7)
        assert rig.stdout == b"a line\n"
        peer.output(b"an error\n", stream=STDERR)
        peer.take_acknowledgements_to(7, 9)
        assert rig.stderr == b"an error\n"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff" * 100,
        encode(FrameType.HELLO, b"{}"),
        encode(FrameType.OUTPUT, b"short"),
        encode(FrameType.OUTPUT, OUTPUT.pack(9, 0) + b"no such stream"),
        encode(FrameType.OUTPUT, OUTPUT.pack(STDOUT, 1000) + b"a gap"),
        encode(FrameType.SIGNAL_ACK, b"?"),
        encode(FrameType.END, b"{}"),
        encode(FrameType.END, b"not JSON"),
    ],
)
def test_relay_that_talks_nonsense_is_left_and_called_again(tmp_path: Path, nonsense: bytes) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start()
        rig.accept().send_raw(nonsense)
        second = rig.accept()
        second.output(b"fine\n")
        second.end(exit_code=5)
        assert rig.wait() == 5
    assert (rig.stdout, rig.stderr) == (b"fine\n", b"")


def test_slow_reader_of_a_fifo_holds_the_relay_back(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)
    content = os.urandom(20 << 20)
    with proxy_rig(tmp_path) as rig:
        rig.start(stdout=writer)
        os.close(writer)
        peer = rig.accept()
        sender = threading.Thread(target=peer.output, args=(content,))
        sender.start()
        sender.join(1.0)
        assert sender.is_alive(), "20 MB went into a FIFO that nobody reads"
        assert memory_kib(rig) < 32 << 10
        rig.kill(10)  # signals still pass
        assert peer.take_signal() == (1, 10)
        os.set_blocking(reader, True)
        received = bytearray()
        while len(received) < len(content):
            received += os.read(reader, 1 << 20)
        os.close(reader)
        assert received == content
        sender.join()
        peer.end(exit_code=0)
        assert rig.wait() == 0


def memory_kib(rig: ProxyRig) -> int:
    status = Path(f"/proc/{rig.pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def test_output_that_nobody_takes_any_more_is_dropped_and_told(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with proxy_rig(tmp_path) as rig:
        rig.start(stdout=writer)
        os.close(writer)
        peer = rig.accept()
        os.close(reader)
        peer.output(b"lost\n")
        assert peer.take_signal() == (1, signal.SIGPIPE)  # what a local script's own write would have met
        peer.take_acknowledgements_to(5)
        peer.end(exit_code=0)
        assert rig.wait() == 74
    assert rig.stderr == b"overspill: 5 bytes of output could not be written: Broken pipe\n"


def test_proxy_sleeps_while_nothing_happens(tmp_path: Path) -> None:
    with proxy_rig(tmp_path) as rig:
        rig.start()
        peer = rig.accept()
        peer.output(b"x")
        peer.take_acknowledgements_to(1)
        before = context_switches(rig)
        threading.Event().wait(2.0)
        # Whatever polls at all polls more often; a page that has to be fetched may cost one.
        assert context_switches(rig) <= before + 1


def context_switches(rig: ProxyRig) -> int:
    status = Path(f"/proc/{rig.pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("voluntary")).split()[1])
