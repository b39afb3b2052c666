"""Who reads the queue, with stand-ins for Slurm's commands and for the process that has pyslurm."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from overspill.errors import ConfigError, UnavailableError
from overspill_sidecar.slurm import CommandLineView, FittingReader, PyslurmReader, QueueReader, SqueueReader
from overspill_sidecar.slurm import readers as slurm_readers
from overspill_sidecar.slurm.readers import PYSLURM_ARGV

_RECORDED = Path(__file__).parents[1] / "unit" / "slurm_22_05"
_RELEASE = "22.05"
#: Answers each question with the recorded jobs.
_WELL = f"""\
import json, sys
def say(word, body):
    sys.stdout.write(f"{{word}} {{len(body)}}\\n{{body}}")
    sys.stdout.flush()
say("ready", json.dumps({{"pyslurm": "25.11.2", "slurm": "{_RELEASE}"}}))
jobs = open("{_RECORDED}/jobs.txt", newline="").read()
for line in sys.stdin:
    say("ok", jobs.replace("\\x1e", json.loads(line)["record_end"]))
"""


class Readers:
    """Makes readers, and ends what they started."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self.write_command("scontrol", f"echo slurm-wlm {_RELEASE}.8")
        self.write_command("squeue", f'sed "s/\\x1e/${{SQUEUE_FORMAT2##*:}}/" {_RECORDED}/jobs.txt')

    def write_command(self, name: str, script: str) -> None:
        path = self._directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def pyslurm(self, program: str = _WELL, deadline_s: float = 10.0) -> PyslurmReader:
        script = self._directory / "pyslurm.py"
        script.write_text(program)
        return self._kept(PyslurmReader(deadline_s, (sys.executable, "-I", str(script))))

    def without_pyslurm(self) -> PyslurmReader:
        """Return the real one, on a Python that has nothing installed."""
        return self._kept(PyslurmReader(10.0, ("/usr/bin/python3", *PYSLURM_ARGV[1:])))

    def squeue(self) -> SqueueReader:
        return SqueueReader(10.0)

    def _kept(self, reader: PyslurmReader) -> PyslurmReader:
        self._stack.push_async_callback(reader.close)
        return reader


@pytest.fixture(name="readers")
async def _readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Readers]:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with AsyncExitStack() as stack:
        yield Readers(tmp_path, stack)


async def test_both_read_the_same_and_a_job_that_has_not_changed_is_not_read_again(readers: Readers) -> None:
    told = []
    for reader in (readers.squeue(), readers.pyslurm()):
        first, second = await reader.jobs(_RELEASE), await reader.jobs(_RELEASE)
        assert len(first) == 12
        assert all(job is again for job, again in zip(first, second, strict=True))
        told.append(first)
    assert told[0] == told[1]


async def _refusal(reader: QueueReader, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        await reader.jobs(_RELEASE)
    return str(caught.value)


async def test_where_there_is_no_pyslurm_it_cannot_be_used(readers: Readers) -> None:
    assert await _refusal(readers.without_pyslurm(), ConfigError) == (
        "pyslurm cannot be used: No module named 'pyslurm'"
    )


async def test_a_pyslurm_for_another_slurm_is_not_used(readers: Readers) -> None:
    readers.write_command("scontrol", "echo slurm-wlm 24.11.5")
    said = await _refusal(readers.pyslurm(), ConfigError)
    assert said == "pyslurm is built for Slurm 22.05, installed is slurm-wlm 24.11.5"
    readers.write_command("scontrol", f"echo slurm-wlm {_RELEASE}.8")
    with pytest.raises(ConfigError, match=r"^pyslurm is built for Slurm 22\.05, slurmctld is 24\.11$"):
        await readers.pyslurm().jobs("24.11")


@pytest.mark.parametrize(
    ("at_a_question", "said"),
    [
        ("say('failed', 'Unable to contact slurm controller')", "pyslurm: Unable to contact slurm controller"),
        (
            "print('fatal: no slurm.conf', file=sys.stderr); sys.exit(1)",
            "pyslurm: its process ended with 1: fatal: no slurm.conf",
        ),
        ("import os; os.kill(os.getpid(), 11)", "pyslurm: its process ended with -11"),
        ("import time; time.sleep(60)", "pyslurm: no answer within 1 s"),
    ],
)
async def test_what_happens_to_its_process_is_no_answer_and_the_next_question_has_another(
    readers: Readers, tmp_path: Path, at_a_question: str, said: str
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    program = _WELL.replace(
        "for line in sys.stdin:\n",
        f"import os\nfor line in sys.stdin:\n    if os.path.exists('{broken}'): {at_a_question}\n",
    )
    if "failed" in at_a_question:
        program = program.replace(at_a_question, f"{at_a_question}; continue")
    reader = readers.pyslurm(program, deadline_s=1.0)
    assert await _refusal(reader, UnavailableError) == said
    broken.unlink()
    assert len(await reader.jobs(_RELEASE)) == 12


async def test_where_pyslurm_does_not_fit_squeue_is_asked_and_why_is_told(readers: Readers) -> None:
    reader = FittingReader(readers.without_pyslurm(), readers.squeue())
    assert len(await reader.jobs(_RELEASE)) == 12
    assert reader.used == "command-line (pyslurm cannot be used: No module named 'pyslurm')"


@pytest.mark.parametrize(
    ("rest_s", "used"), [(300.0, "command-line (pyslurm cannot be used: not yet)"), (0.0, "pyslurm")]
)
async def test_a_pyslurm_that_is_installed_meanwhile_is_found_once_the_pause_is_over(
    readers: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest_s: float, used: str
) -> None:
    monkeypatch.setattr(slurm_readers, "_REST_S", rest_s)
    installed = tmp_path / "installed"
    is_missing = f"import os\nif not os.path.exists('{installed}'): sys.exit(say('failed', 'not yet'))\nsay('ready'"
    reader = FittingReader(readers.pyslurm(_WELL.replace('say("ready"', is_missing)), readers.squeue())
    assert len(await reader.jobs(_RELEASE)) == 12
    assert reader.used == "command-line (pyslurm cannot be used: not yet)"
    installed.touch()
    assert len(await reader.jobs(_RELEASE)) == 12
    assert reader.used == used


async def test_where_pyslurm_fits_squeue_is_not_asked(readers: Readers) -> None:
    readers.write_command("squeue", "exit 1")
    reader = FittingReader(readers.pyslurm(), readers.squeue())
    assert len(await reader.jobs(_RELEASE)) == 12
    assert reader.used == "pyslurm"


async def test_a_slurm_that_answers_neither_is_unknown_and_pyslurm_is_not_blamed(readers: Readers) -> None:
    reader = FittingReader(readers.pyslurm(_WELL.replace('say("ok", ', 'say("failed", ')), readers.squeue())
    readers.write_command("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact" in await _refusal(reader, UnavailableError)
    assert reader.used == ""


async def test_a_snapshot_is_read_by_the_reader_and_not_read_again_where_nothing_has_changed(readers: Readers) -> None:
    choose = 'case "$*" in *partition) f=partitions;; *node) f=nodes;; *--version) f=;; *) f=config;; esac'
    readers.write_command("scontrol", f"{choose}; cat {_RECORDED}/$f.txt 2>/dev/null || echo slurm-wlm {_RELEASE}.8")
    readers.write_command("squeue", "exit 1")
    view = CommandLineView(reader=readers.pyslurm())
    first, second = await view.snapshot(), await view.snapshot()
    assert first.reader == "pyslurm"
    assert len(first.jobs) == 12
    assert all(job is again for job, again in zip(first.jobs, second.jobs, strict=True))
