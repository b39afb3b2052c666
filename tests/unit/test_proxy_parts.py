"""The proxy's parts without a relay: what is pure, and what needs only a file."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.proxy_framing import (
    HEADER,
    KEPT_PREFIX,
    MAX_UNACKNOWLEDGED_SIGNALS,
    OUTPUT,
    STDOUT,
    TASK_PROLOG,
    FrameType,
    FramingError,
    encode,
)
from overspill_proxy import ending, task_prolog
from overspill_proxy.job import entries, script_environment, script_limits, slurms_environment
from overspill_proxy.output import PATIENCE_S, Output
from overspill_proxy.relay import FrameReader
from overspill_proxy.signals import UnacknowledgedSignals

UNLIMITED = resource.RLIM_INFINITY
SLURMS_OWN = (KEPT_PREFIX, TASK_PROLOG.removesuffix(b"="), b"SLURM_RLIMIT_")
names = st.binary(min_size=1, max_size=20).filter(
    lambda name: not {0, ord("=")} & set(name) and not name.startswith(SLURMS_OWN)
)
values = st.binary(max_size=50).map(lambda value: value.replace(b"\0", b"\n"))


@given(st.lists(st.tuples(names, values)))
def test_a_users_environment_passes_unchanged(variables: list[tuple[bytes, bytes]]) -> None:
    environment = [name + b"=" + value for name, value in variables]
    block = b"".join(entry + b"\0" for entry in environment)
    assert slurms_environment(entries(block)) == (environment, b"")
    assert script_environment(environment) == environment


def test_kept_prefix_is_taken_off_once() -> None:
    kept = [b"OVERSPILL_KEPT_LD_PRELOAD=x", b"OVERSPILL_KEPT_OVERSPILL_KEPT_A=y"]
    assert slurms_environment(kept) == ([b"LD_PRELOAD=x", b"OVERSPILL_KEPT_A=y"], b"")


def test_the_plugins_word_of_a_task_prolog_is_taken_out_and_a_users_variable_of_that_name_kept() -> None:
    environment = [b"OVERSPILL_KEPT_OVERSPILL_TASK_PROLOG=mine", b"A=1", b"OVERSPILL_TASK_PROLOG=/etc/p q"]
    assert slurms_environment(environment) == ([b"OVERSPILL_TASK_PROLOG=mine", b"A=1"], b"/etc/p q")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"export B=two words\n", [b"A=1", b"B=two words"]),
        (b"export   A=2\n", [b"A=2"]),
        (b"export A=\n", [b"A="]),
        (b"export A\n", [b"A=1"]),
        (b"unset A\n", []),
        (b"unset NOT_THERE\n", [b"A=1"]),
        (b"exported A=2\n", [b"A=1"]),
        (b"anything else\n", [b"A=1"]),
    ],
)
def test_a_task_prolog_changes_the_environment_by_what_it_prints(line: bytes, expected: list[bytes]) -> None:
    assert task_prolog.obeyed(line, [b"A=1"]) == expected


def test_a_task_prolog_is_run_whatever_stands_in_the_users_environment() -> None:
    odd = [b"=x", b"no name", b"A=1", b"A=2", b"LINES=1\n2"]
    assert task_prolog.run(b"/bin/true", odd) == [*odd, b"SLURM_SCRIPT_CONTEXT=prolog_task"]


def test_a_task_prolog_that_cannot_be_run_changes_nothing() -> None:
    assert task_prolog.run(b"/opt/nowhere/prolog", [b"A=1"]) == [b"A=1", b"SLURM_SCRIPT_CONTEXT=prolog_task"]


@pytest.mark.parametrize(
    ("own", "wish", "expected"),
    [
        ((1024, 4096), b"777", (777, 4096)),
        ((1024, 4096), b"U777", (777, 4096)),
        ((1024, 4096), b"9999", (9999, 9999)),
        ((1024, 4096), b"18446744073709551615", (UNLIMITED, UNLIMITED)),
        ((1024, UNLIMITED), b"9999", (9999, UNLIMITED)),
        ((1024, 4096), b"nonsense", (1024, 4096)),
        ((1024, 4096), None, (1024, 4096)),
    ],
)
def test_limits_are_those_that_slurmstepd_sets(
    own: tuple[int, int], wish: bytes | None, expected: tuple[int, int]
) -> None:
    environment = [] if wish is None else [b"SLURM_RLIMIT_NOFILE=" + wish]
    assert script_limits(environment, lambda _name: own)["NOFILE"] == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ([b"SLURM_MEM_PER_NODE=200"], 200 << 20),
        ([b"SLURM_MEM_PER_CPU=50", b"SLURM_CPUS_ON_NODE=2"], 100 << 20),
        ([], UNLIMITED),
    ],
)
def test_resident_memory_limit_is_the_jobs_memory(variables: list[bytes], expected: int) -> None:
    limits = script_limits(variables, lambda _name: (UNLIMITED, UNLIMITED))
    assert limits["RSS"] == (expected, expected)


frames = st.one_of(
    st.tuples(st.just(FrameType.SIGNAL_ACK), st.binary(max_size=20)),
    st.tuples(
        st.just(FrameType.OUTPUT),
        st.builds(lambda offset, data: OUTPUT.pack(STDOUT, offset) + data, st.integers(0, 2**63), st.binary()),
    ),
)


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 40)))
def test_frames_are_read_however_they_are_cut(sent: list[tuple[FrameType, bytes]], cuts: list[int]) -> None:
    whole: list[tuple[FrameType, bytes]] = []
    output: dict[int, bytes] = {}
    reader = FrameReader()
    for piece in cut(b"".join(encode(*frame) for frame in sent), cuts):
        reader.put(piece)
        while (frame := reader.next()) is not None:
            if frame.type is FrameType.OUTPUT:
                output[len(output)] = OUTPUT.pack(frame.stream, frame.offset) + frame.data
            else:
                whole.append((frame.type, frame.data))
    assert whole == [frame for frame in sent if frame[0] is not FrameType.OUTPUT]
    assert joined(output.values()) == joined(payload for kind, payload in sent if kind is FrameType.OUTPUT)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Yield the data in pieces of these sizes, then the rest."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def joined(pieces: object) -> list[tuple[int, int]]:
    """Return each byte of output with its offset."""
    assert hasattr(pieces, "__iter__")
    found = []
    for piece in pieces:
        _, offset = OUTPUT.unpack_from(piece)
        found += [(offset + i, byte) for i, byte in enumerate(piece[OUTPUT.size :])]
    return found


@pytest.mark.parametrize("header", [(2**32 - 1, FrameType.OUTPUT), (0, 200), (2 << 20, FrameType.END)])
def test_impossible_frames_are_refused(header: tuple[int, int]) -> None:
    reader = FrameReader()
    reader.put(HEADER.pack(*header))
    with pytest.raises(FramingError):
        reader.next()


class RefusingFile:
    """An output file without space, until `give_space`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.output = Output(os.open("/dev/full", os.O_WRONLY))

    def give_space(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, self.output.fd)
        os.close(file)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[RefusingFile]:
    file = RefusingFile(tmp_path / "out")
    yield file
    os.close(file.output.fd)


def test_full_disk_loses_nothing_if_space_comes_back(full: RefusingFile, tmp_path: Path) -> None:
    full.output.give(0, b"hello")
    full.output.flush(0.0)
    assert full.output.waits_for_retry
    full.give_space()
    full.output.flush(full.output.retry_at)
    assert (tmp_path / "out").read_bytes() == b"hello"
    assert (full.output.is_pending, full.output.loss()) == (False, "")


def test_full_disk_is_waited_for_so_long_and_then_loses(full: RefusingFile, tmp_path: Path) -> None:
    full.output.give(0, b"hello")
    for now in (0.0, PATIENCE_S - 1):
        full.output.flush(now)
        assert full.output.is_pending
    full.output.flush(PATIENCE_S)
    assert (full.output.is_pending, full.output.offset) == (False, 5)
    full.output.give(5, b"lost at once")
    full.output.flush(PATIENCE_S)
    assert full.output.offset == 17
    assert full.output.loss() == "17 bytes of output could not be written: No space left on device"
    full.give_space()
    full.output.give(17, b"kept")
    full.output.flush(PATIENCE_S)
    assert (tmp_path / "out").read_bytes() == b"kept"


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60))))
def test_output_is_written_once_whatever_overlaps(slices: list[tuple[int, int]]) -> None:
    content = bytes(range(100))
    fd = os.memfd_create("out")
    output = Output(fd)
    reached = 0
    for back, size in slices:
        start = max(0, reached - back)
        output.give(start, content[start : reached + size])
        output.flush(0.0)
        reached = max(reached, len(content[: reached + size]))
        assert output.offset == reached
    assert os.pread(fd, 200, 0) == content[:reached]
    os.close(fd)


def test_output_with_a_gap_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, pytest.raises(ValueError, match="continues at byte 10"):
        Output(file.fileno()).give(10, b"x")


def test_lost_output_makes_a_success_a_failure_and_leaves_failures_as_they_are() -> None:
    lost = ["5 bytes of output could not be written: Disk quota exceeded"]
    assert ending.with_loss(ending.Ending(0), lost).exit_code == ending.EXIT_OUTPUT_LOST
    assert ending.with_loss(ending.Ending(3), lost).exit_code == 3
    killed = ending.with_loss(ending.Ending(signal_number=9), lost)
    assert (killed.exit_code, killed.signal, killed.message) == (0, 9, lost[0])
    assert ending.with_loss(ending.Ending(0), ["", ""]).exit_code == 0


def test_what_a_site_says_of_the_end_is_one_printable_line() -> None:
    assert (
        ending.line_for_user("site-a: held:\n\x1b[2J\x07 no \x9b1m disk") == "overspill: site-a: held: [2J no 1m disk\n"
    )


def test_repeated_signals_are_kept_once_while_nobody_hears() -> None:
    kept = UnacknowledgedSignals()
    first = kept.add(10, is_connected=False)
    assert first
    assert kept.add(10, is_connected=False) == b""
    assert kept.add(12, is_connected=False)
    assert kept.add(10, is_connected=False)
    assert kept.frames().startswith(first)
    kept.acknowledge(3)
    assert kept.frames() == b""


def test_signals_that_nobody_acknowledges_stay_within_what_a_relay_takes_and_none_is_lost_for_good() -> None:
    kept = UnacknowledgedSignals()
    for number in range(1, 10_000):
        kept.add(10 + 2 * (number % 2), is_connected=True)
    for number in range(1, 65):
        kept.add(number, is_connected=True)
    frame_bytes = len(UnacknowledgedSignals().add(15, is_connected=True))
    frames = kept.frames()
    assert len(frames) <= MAX_UNACKNOWLEDGED_SIGNALS * frame_bytes
    assert {frames[end - 1] for end in range(frame_bytes, len(frames) + 1, frame_bytes)} == set(range(1, 65))
