"""`overspill simulate`, as an admin calls it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from overspill.cli import main
from overspill_sidecar.history import SACCT_FIELDS, PastJob
from overspill_sidecar.wait import trees
from tests.unit.queue_simulation import CPUS, simulated_jobs

_FROM_1700 = 1_700_000_000
_POLICY = "overspill_from=batch,overspill_explore=0"


def _sacct(jobs: Sequence[PastJob]) -> str:
    lines = ["|".join(SACCT_FIELDS)]
    for job in jobs:
        times = [
            str(round(at_s) + _FROM_1700) for at_s in (job.submit_s, job.submit_s, job.start_s or 0, job.end_s or 0)
        ]
        limit = (job.time_limit_s or 0) // 60
        lines.append(
            "|".join([job.job_id, *times, "1", "1", *[str(job.cpus)] * 2, str(limit), job.user, "ac", "batch", "", "1"])
        )
    return "\n".join(lines) + "\n"


@pytest.fixture(name="sacct_file", scope="module")
def _sacct_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "sacct.txt"
    path.write_text(_sacct(simulated_jobs(600, load=1.2)))
    return path


def _call(*arguments: str | Path) -> Result:
    """Call it, without trees unless they are named: fitting these takes seconds."""
    trees = [] if "--trees" in arguments else ["--no-trees"]
    return CliRunner().invoke(main, ["simulate", *trees, *map(str, arguments)])


def _answer(*arguments: str | Path) -> dict[str, dict[str, dict[str, float]]]:
    result = _call("--policy", _POLICY, *arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, dict[str, dict[str, float]]] = json.loads(result.stdout)
    return answer


def _swf(jobs: int, *, header: str = "") -> str:
    """Return one job a minute, of an hour on one CPU, with no more known of it; before it comments."""
    lines = [f"{number} {number * 60} 0 3600 1 -1 -1 -1 -1 -1 1 -1 -1 -1 1 -1 -1 -1" for number in range(1, jobs + 1)]
    return "\n".join(["; Version: 2.2", ";", *header.splitlines(), *lines]) + "\n"


def test_a_person_is_told_what_the_policy_would_have_done(sacct_file: Path) -> None:
    result = _call("--policy", _POLICY, "--from", "sacct", sacct_file, "--remote-cpus", "64", "--compare")
    assert result.exit_code == 0
    told = result.stdout
    for word in ("600 jobs that ran, 2023-11-1", "overspill: 64 CPUs, 1 min before a job begins", _POLICY):
        assert word in told
    for first in ("never ", "policy ", "always ", "oracle ", "PARTITION", "batch ", "At the sites: "):
        assert f"\n{first}" in told
    assert "  it was likely to start at home within the time" in told
    assert "jobs/s)" in told


def test_json_has_the_same_numbers_and_a_second_run_prints_the_same(sacct_file: Path) -> None:
    call = ("--policy", _POLICY, "--from", "sacct", sacct_file, "--remote-cpus", "64", "--json")
    first = _call(*call)
    assert first.stdout == _call(*call).stdout
    answer = json.loads(first.stdout)
    assert answer["history"]["jobs"] == 600
    assert answer["cluster"] == {"is_simulated": True, "cpus": {"shared": CPUS}}
    assert answer["sites"] == [{"partition": "overspill", "cpus": 64, "overhead_s": 60, "slot_cpus": None, "price": 0}]
    assert answer["ways"].keys() == {"never", "policy"}
    assert answer["ways"]["policy"]["jobs"] == 510 == sum(answer["reasons"].values())
    assert answer["by_account"]["ac"]["diverted"] == answer["ways"]["policy"]["diverted"] > 0


def test_sites_with_prices_are_told_apart_and_late_ones_named(sacct_file: Path) -> None:
    call = ("--from", "sacct", sacct_file, "--policy", f"{_POLICY},overspill_to=a+b", "--late-every", "00:10:00")
    sizes = ("--remote-cpus", "a=8", "--remote-cpus", "b=64", "--remote-price", "a=0.5", "--remote-price", "b=2")
    told = _call(*call, *sizes).stdout
    assert "a: 8 CPUs, 1 min before a job begins, 0.5 for a CPU-hour; b: 64 CPUs" in told
    assert "router   looks again at jobs that wait every 10 min; wait model without boosted trees" in told
    assert "LATE  NEEDLESS" in told
    assert "\n  b: " in told
    assert " CPU-hours, which cost " in told
    answer = json.loads(_call(*call, *sizes, "--json").stdout)
    assert answer["by_site"]["a"]["cost"] == pytest.approx(0.5 * answer["by_site"]["a"]["diverted_cpu_hours"])
    assert sum(site["diverted"] for site in answer["by_site"].values()) == answer["ways"]["policy"]["diverted"]
    assert (answer["late_every_s"], answer["has_trees"]) == (600, False)
    assert answer["ways"]["policy"]["late"] == sum(span["late"] for span in answer["spans"]) > 0
    never = json.loads(_call(*call, *sizes, "--late-every", "0", "--json").stdout)
    assert (never["late_every_s"], never["ways"]["policy"]["late"]) == (None, 0)


def test_trees_are_fitted_as_in_the_router(sacct_file: Path) -> None:
    result = _call("--trees", "--policy", _POLICY, "--from", "sacct", sacct_file)
    assert result.exit_code == 0, result.output
    assert "wait model with boosted trees" in result.stdout


def test_trees_that_are_asked_for_and_not_installed_are_missed(
    monkeypatch: pytest.MonkeyPatch, sacct_file: Path
) -> None:
    monkeypatch.setattr(trees, "find_spec", lambda _name: None)
    result = _call("--trees", "--policy", _POLICY, "--from", "sacct", sacct_file)
    assert result.exit_code == 1
    assert "--trees needs lightgbm" in result.stderr
    unasked = CliRunner().invoke(main, ["simulate", "--policy", _POLICY, "--from", "sacct", str(sacct_file)])
    assert "wait model without boosted trees" in unasked.stdout


def test_a_compressed_file_and_standard_input_are_read_alike(sacct_file: Path, tmp_path: Path) -> None:
    packed = tmp_path / "any.name"
    packed.write_bytes(gzip.compress(sacct_file.read_bytes()))
    plain = _answer("--from", "sacct", sacct_file)
    for file in (sacct_file, packed):
        argv = [
            sys.executable,
            "-m",
            "overspill.cli",
            "simulate",
            "--no-trees",
            "--policy",
            _POLICY,
            "--from",
            "sacct",
            "-",
            "--json",
        ]
        with file.open("rb") as stdin:
            done = subprocess.run(argv, stdin=stdin, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["ways"] == plain["ways"]
    assert _answer("--from", "sacct", packed)["ways"] == plain["ways"]


def test_the_standard_workload_format_is_replayed_with_its_comments_and_unknowns(tmp_path: Path) -> None:
    log = tmp_path / "log.swf.gz"
    log.write_bytes(gzip.compress(_swf(200, header="; MaxProcs: 30").encode()))
    policy = "overspill_from=1,overspill_explore=0,overspill_max_nodes=3,overspill_gpus=0"
    result = _call("--policy", policy, "--from", "SWF", log, "--compare")
    assert result.exit_code == 0, result.output
    assert "all partitions: 30 CPUs" in result.stdout
    assert "within 3 h" in result.stdout
    assert "! overspill_max_nodes is ignored: the history does not tell how many nodes" in result.stdout
    assert "! overspill_gpus is ignored: the GPUs of a job are not read" in result.stdout


def test_the_job_completion_log_is_replayed(tmp_path: Path) -> None:
    line = (
        "JobId={id} UserId=alice(1000) GroupId=alice(1000) Name=x JobState=COMPLETED Partition=batch TimeLimit=60"
        " StartTime=2026-03-01T10:10:{id:02} EndTime=2026-03-01T11:00:00 NodeList=c1 NodeCnt=1 ProcCnt=8"
        " WorkDir=/ ReservationName= Tres= Account=physics QOS=normal WcKey= Cluster=c1"
        " SubmitTime=2026-03-01T10:00:00 EligibleTime=2026-03-01T10:05:00 ArrayJobId= ArrayTaskId=\n"
    )
    log = tmp_path / "jobcomp"
    log.write_text("".join(line.format(id=number) for number in range(10, 30)))
    answer = _answer("--from", "jobcomp", log, "--warm-up", "0")
    assert answer["by_user"]["alice"]["jobs"] == 20
    assert answer["cluster"]["cpus"] == {"shared": 160}


def test_a_line_that_cannot_be_read_is_named_or_passed_over(sacct_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "sacct.txt"
    lines = sacct_file.read_text().splitlines()
    damaged.write_text("\n".join([*lines[:100], "12|half a li", *lines[100:]]))
    result = _call("--policy", _POLICY, "--from", "sacct", damaged)
    assert result.exit_code == 1
    assert result.stderr == (
        f"overspill: {damaged}: line 101 is no record of sacct: 2 fields, the first line has 15: '12|half a li'\n"
    )
    result = _call("--policy", _POLICY, "--from", "sacct", damaged, "--skip-bad-lines")
    assert result.exit_code == 0
    assert "! 1 line could not be read" in result.stdout


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(b"x" * 100_000)[:-20], "cannot be read to its end: Compressed file ended"),
        (b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 20, "cannot be read to its end"),
        (b"", "sacct's text lacks AllocNodes"),
        (b"\xff\xfe\n", "sacct's text lacks AllocNodes"),
        (_sacct([]).encode(), "none of its 0 jobs ever ran: nothing to replay"),
    ],
)
def test_a_file_that_is_none_is_one_line_of_error(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "history"
    file.write_bytes(content)
    result = _call("--policy", _POLICY, "--from", "sacct", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert told in result.stderr
    assert result.stderr.startswith(f"overspill: {file}")
    assert len(result.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_is_one_line_of_error(tmp_path: Path) -> None:
    result = _call("--policy", _POLICY, "--from", "swf", tmp_path / "absent")
    assert result.exit_code == 1
    assert result.stderr == f"overspill: {tmp_path}/absent cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--policy", "wait=30"], "there is no overspill_ word in it"),
        (["--policy", "overspill_wait=soon,overspill_from=batch"], "overspill_wait=soon: 'soon' is no time"),
        (["--policy", "overspill_wait=30"], "overspill_from: is missing"),
        (["--policy", _POLICY, "--remote-cpus", "0"], "'0' is no number of CPUs"),
        (["--policy", _POLICY, "--local-cpus", "unlimited"], "'unlimited' is no number of CPUs"),
        (["--policy", _POLICY, "--remote-overhead", "a while"], "'a while' is no time"),
        (["--policy", _POLICY, "--local-cpus", "lnog=4"], "no job is of partition lnog: there are batch"),
        (
            ["--policy", f"{_POLICY},overspill_to=a+b", "--remote-cpus", "4"],
            "--remote-cpus a=CPUS --remote-cpus b=CPUS",
        ),
        (["--policy", f"{_POLICY},overspill_to=a+b", "--remote-cpus", "a=4"], "say how large b is, too"),
        (["--policy", f"{_POLICY},overspill_to=a", "--remote-cpus", "b=4"], "--remote-cpus b=: jobs may go to a only"),
        (["--policy", f"{_POLICY},overspill_to=a", "--remote-overhead", "b=4"], "--remote-overhead b=: jobs may go to"),
        (["--policy", _POLICY, "--remote-price", "cheap"], "'cheap' is no price: write a number, as 0.02"),
        (["--policy", _POLICY, "--remote-price", "-1"], "'-1' is no price"),
        (
            ["--policy", f"{_POLICY},overspill_to=a", "--remote-price", "b=4"],
            "--remote-price b=: jobs may go to a only",
        ),
        (["--policy", _POLICY, "--late-every", "soon"], "'soon' is no time"),
        (["--policy", _POLICY, "--plot", "policy.pdf"], "policy.pdf does not end in .png or .svg"),
        (["--policy", _POLICY, "--plot", "/nonexistent/policy.png"], "there is no directory /nonexistent"),
        (["--policy", _POLICY, "--warm-up", "1"], "--warm-up"),
    ],
)
def test_a_wrong_call_is_told_what_to_write(sacct_file: Path, arguments: list[str], told: str) -> None:
    result = _call("--from", "sacct", sacct_file, *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())


def test_a_history_other_than_saccts_wants_a_file() -> None:
    result = _call("--policy", _POLICY, "--from", "swf")
    assert result.exit_code == 2
    assert "name the FILE that swf wrote" in result.stderr


def test_every_job_may_be_larger_than_the_cluster_is_said_to_be(sacct_file: Path) -> None:
    result = _call("--policy", _POLICY, "--from", "sacct", sacct_file, "--local-cpus", "32")
    assert "that are larger than the cluster is said to be (--local-cpus)" in result.stdout
    log = sacct_file.parent / "one.swf"
    log.write_text(_swf(3).replace(" 1 -1 -1 -1 -1 -1 1 ", " 8 -1 -1 -1 -1 -1 1 "))
    result = _call("--policy", _POLICY, "--from", "swf", log, "--local-cpus", "4")
    assert result.exit_code == 1
    assert "every job is larger than --local-cpus" in result.stderr


def test_a_partition_that_no_job_is_of_is_told_of(sacct_file: Path) -> None:
    result = _call("--policy", "overspill_from=btach", "--from", "sacct", sacct_file)
    assert result.exit_code == 0
    assert "! overspill_from names btach, but no job in the history is of it: there are batch" in result.stdout


def test_without_a_file_sacct_is_asked(monkeypatch: pytest.MonkeyPatch, sacct_file: Path, tmp_path: Path) -> None:
    sacct = tmp_path / "sacct"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    call = ("--policy", _POLICY, "--from", "sacct", "--since", "2023-11-01")
    sacct.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/asked\necho $SLURM_TIME_FORMAT >>{tmp_path}/asked\ncat {sacct_file}\n'
    )
    sacct.chmod(0o755)
    assert "sacct since 2023-11-01: 600 jobs" in _call(*call).stdout
    asked = (tmp_path / "asked").read_text()
    assert "--allusers --allocations --duplicates --starttime=2023-11-01" in asked
    assert asked.endswith("\n%s\n")
    sacct.write_text("#!/bin/sh\necho 'sacct: error: no database' >&2\nexit 3\n")
    result = _call(*call)
    assert (result.exit_code, result.stderr) == (1, "overspill: sacct failed: sacct: error: no database\n")
    sacct.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    result = _call(*call)
    assert (result.exit_code, "name a FILE" in result.stderr) == (1, True)


@pytest.mark.parametrize(("name", "begins"), [("plot.png", b"\x89PNG\r\n"), ("plot.SVG", b"<?xml")])
def test_the_picture_is_drawn_and_a_second_time_the_same(
    sacct_file: Path, tmp_path: Path, name: str, begins: bytes
) -> None:
    pictures = []
    for _ in range(2):
        result = _call("--policy", _POLICY, "--from", "sacct", sacct_file, "--plot", tmp_path / name)
        assert result.exit_code == 0, result.output
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0].startswith(begins)
    assert pictures[0] == pictures[1]


def test_without_matplotlib_the_picture_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = _call("--policy", _POLICY, "--from", "sacct", tmp_path / "absent", "--plot", tmp_path / "plot.png")
    assert result.exit_code == 1
    assert "--plot needs matplotlib" in result.stderr


def test_a_picture_that_cannot_be_written_is_one_line_of_error(sacct_file: Path) -> None:
    result = _call("--policy", _POLICY, "--from", "sacct", sacct_file, "--plot", "/dev/full/x.png")
    assert result.exit_code == 2
    result = _call("--policy", _POLICY, "--from", "sacct", sacct_file, "--plot", "/proc/x.png")
    assert (result.exit_code, "cannot write /proc/x.png" in result.stderr) == (1, True)


def _completed(*arguments: str, incomplete: str) -> list[str]:
    completing = ShellComplete(main, {}, "overspill", "_OVERSPILL_COMPLETE")
    return [item.value for item in completing.get_completions(["simulate", *arguments], incomplete)]


def test_words_and_kinds_of_history_are_completed() -> None:
    assert _completed("--from", incomplete="s") == ["sacct", "swf"]
    assert _completed("--policy", incomplete="overspill_mo") == ["overspill_mode="]
    assert _completed("--policy", incomplete="overspill_wait=5,overspill_fr") == ["overspill_wait=5,overspill_from="]
    assert "--remote-cpus" in _completed(incomplete="--remote")
