"""Running a program to its end: what goes in, what comes out, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from overspill.errors import UnavailableError
from overspill_sidecar.subprocesses import run_raw
from tests.rig.waiting import poll


async def test_a_program_has_what_it_is_given_and_nothing_else() -> None:
    program = (
        "import os, signal, sys; sys.stderr.write(os.environ['WORD']); "
        "print(sys.stdin.read(), os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGPIPE).name, "
        "sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    )
    argv = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL); {program}"]
    ran = await run_raw(argv, 30.0, source=b"in", env={"WORD": "ünique"})
    assert (ran.status, ran.stderr.decode()) == (0, "ünique")
    assert ran.stdout.decode() == "in True SIG_DFL [0, 1, 2]\n"


async def test_a_program_that_writes_to_nobody_ends_as_anywhere() -> None:
    ran = await run_raw(["sh", "-c", "yes | head -1"], 30.0)
    assert (ran.status, ran.stdout) == (0, b"y\n")


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -9 $$", -signal.SIGKILL)])
async def test_how_a_program_ended_is_told(script: str, status: int) -> None:
    assert (await run_raw(["sh", "-c", script], 30.0)).status == status


async def test_megabytes_go_through_whole() -> None:
    source = os.urandom(8 * 2**20)
    assert (await run_raw(["cat"], 30.0, source=source)).stdout == source
    assert (await run_raw(["true"], 30.0, source=source)).status == 0


async def test_many_run_at_once_and_leave_no_descriptor_behind() -> None:
    before = _descriptors()
    ran = await asyncio.gather(
        *(run_raw(["sh", "-c", f"echo {number}; echo {number} >&2"], 30.0) for number in range(40))
    )
    assert [each.stdout for each in ran] == [each.stderr for each in ran] == [b"%d\n" % number for number in range(40)]
    assert _descriptors() == before


async def test_at_its_deadline_a_program_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(UnavailableError, match=r"^sh gave no answer within 2 s$"):
        await run_raw(["sh", "-c", script], 2.0)
    child = int((tmp_path / "child").read_text())
    assert poll(lambda: not _is_alive(child), timeout_s=10, interval_s=0.01)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _is_alive(process_id: int) -> bool:
    status = Path(f"/proc/{process_id}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize(
    ("name", "reason"), [("no-such-program", "No such file or directory"), ("/etc/passwd", "Permission denied")]
)
async def test_what_cannot_be_run_is_told(name: str, reason: str) -> None:
    with pytest.raises(UnavailableError, match=f"^cannot run {name}: {reason}$"):
        await run_raw([name], 30.0)


async def test_a_null_byte_in_an_argument_cuts_nothing_off() -> None:
    with pytest.raises(ValueError, match="null byte"):
        await run_raw(["echo", "a\0b"], 30.0)
