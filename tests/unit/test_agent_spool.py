"""A run's bytes: in order, each once, and the file's length is the truth after a crash."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import ExhaustedError
from overspill_agent.spool import FREE_BYTES, FreedError, GapError, Piece, Reserve, Spool, Stream

OUT = Stream.STDOUT


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "run", Reserve(tmp_path, 0))


def test_bytes_can_be_read_at_once_and_are_durable_after_sync(spool: Spool) -> None:
    spool.append([Piece(OUT, 0, b"abc"), Piece(Stream.STDERR, 0, b"x"), Piece(OUT, 3, b"def")])
    assert spool.read(OUT, 2, 100) == b"cdef"
    assert spool.read_cached(OUT, 2, 3) == b"cde"
    assert (spool.length(OUT), spool.durable(OUT), spool.is_dirty) == (6, 0, True)
    spool.sync()
    assert (spool.durable(OUT), spool.durable(Stream.STDERR), spool.is_dirty) == (6, 1, False)


def test_bytes_that_a_sync_has_lost_are_never_called_durable(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool.append([Piece(OUT, 0, b"abc")])
    spool.sync()
    spool.append([Piece(OUT, 3, b"def")])
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(ExhaustedError, match="Input/output error"):
            spool.sync()
    with pytest.raises(ExhaustedError, match="sent again"):
        spool.sync()
    with pytest.raises(GapError, match="continues at 3, not at 6"):
        spool.append([Piece(OUT, 6, b"ghi")])
    spool.append([Piece(OUT, 3, b"defghi")])
    spool.sync()
    assert (spool.read(OUT, 0, 100), spool.durable(OUT)) == (b"abcdefghi", 9)


def test_what_comes_twice_is_kept_once(spool: Spool) -> None:
    spool.append([Piece(OUT, 0, b"abcd")])
    spool.append([Piece(OUT, 2, b"cdef"), Piece(OUT, 0, b"ab")])
    assert spool.read(OUT, 0, 100) == b"abcdef"


def test_a_gap_is_refused_and_what_came_before_it_is_kept(spool: Spool) -> None:
    with pytest.raises(GapError, match="stdout continues at 2, not at 3"):
        spool.append([Piece(OUT, 0, b"ab"), Piece(OUT, 3, b"d")])
    assert spool.read(OUT, 0, 100) == b"ab"


def test_the_next_agent_finds_everything_that_was_written(tmp_path: Path) -> None:
    Spool(tmp_path, Reserve(tmp_path, 0)).append([Piece(OUT, 0, b"abc")])
    second = Spool(tmp_path, Reserve(tmp_path, 0))
    assert second.length(OUT) == 3
    second.sync()
    assert second.durable(OUT) == 3


def test_a_torn_tail_can_be_cut(spool: Spool) -> None:
    spool.append([Piece(OUT, 0, b"abcdef")])
    spool.truncate(OUT, 4)
    spool.truncate(OUT, 10)
    assert spool.read(OUT, 0, 100) == b"abcd"


def test_output_does_not_take_the_disks_reserve(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Reserve(tmp_path, 2**60))
    with pytest.raises(ExhaustedError, match="full but for its reserve"):
        spool.append([Piece(OUT, 0, b"a")])
    assert spool.length(OUT) == 0


def free(spool: Spool, stdout: int, stderr: int = 0) -> None:
    spool.acknowledge({OUT: stdout, Stream.STDERR: stderr})
    spool.free()


def blocks(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def test_acknowledged_output_leaves_the_disk_and_the_rest_stays(spool: Spool, tmp_path: Path) -> None:
    spool.append([Piece(OUT, 0, b"a" * FREE_BYTES + b"b" * FREE_BYTES + b"c")])
    free(spool, FREE_BYTES)
    assert spool.read(OUT, 0, 1) == b"a"  # not durable yet: the runner may have to send it again
    spool.sync()
    before = blocks(tmp_path / "run")
    free(spool, FREE_BYTES + 5)
    assert before - blocks(tmp_path / "run") >= FREE_BYTES - 8192
    assert spool.read(OUT, FREE_BYTES, 5) == b"bbbbb"
    assert spool.read_cached(OUT, 2 * FREE_BYTES, 5) == b"c"
    assert spool.length(OUT) == 2 * FREE_BYTES + 1
    spool.append([Piece(OUT, spool.length(OUT), b"d")])
    assert spool.read(OUT, 2 * FREE_BYTES, 5) == b"cd"


def test_zeros_of_freed_output_are_never_read_even_by_the_next_agent(spool: Spool, tmp_path: Path) -> None:
    spool.append([Piece(OUT, 0, b"a" * 2 * FREE_BYTES)])
    spool.sync()
    free(spool, FREE_BYTES, stderr=2**40)
    for each in (spool, Spool(tmp_path / "run", Reserve(tmp_path, 0))):
        with pytest.raises(FreedError, match="freed up to 1048576"):
            each.read(OUT, FREE_BYTES - 1, 10)
        with pytest.raises(FreedError):
            each.read_cached(OUT, 0, 10)
        assert each.read(OUT, FREE_BYTES, 2) == b"aa"


def test_nothing_comes_back_if_a_removed_run_is_acknowledged(spool: Spool, tmp_path: Path) -> None:
    spool.append([Piece(OUT, 0, b"a" * FREE_BYTES)])
    spool.sync()
    spool.remove()
    free(spool, FREE_BYTES)
    assert not (tmp_path / "run").exists()


def test_reading_beyond_the_end_gives_nothing(spool: Spool) -> None:
    assert spool.read(OUT, 5, 10) == b""
    assert spool.read_cached(OUT, 5, 10) == b""


def test_a_removed_run_leaves_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run", Reserve(tmp_path, 0))
    spool.append([Piece(OUT, 0, b"abc")])
    spool.remove()
    assert not (tmp_path / "run").exists()
    assert spool.length(OUT) == 0


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20))
def test_any_overlapping_pieces_give_the_stream_without_loss_or_repetition(
    tmp_path_factory: pytest.TempPathFactory, stream: bytes, cuts: list[tuple[int, int]]
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, Reserve(directory, 0))
    for start, size in cuts:
        offset = min(start, spool.length(OUT))
        spool.append([Piece(OUT, offset, stream[offset : offset + size])])
        assert spool.read(OUT, 0, 100) == stream[: spool.length(OUT)]
