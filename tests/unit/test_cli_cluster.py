"""What the cluster's commands make of Slurm's words and the router's records."""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from overspill.cli import main
from overspill.errors import NotFoundError
from overspill.v1.sidecar_pb2 import AccountUse, DecisionRecord, SiteAnswer
from overspill_sidecar.cluster import Job
from overspill_sidecar.commands import logs
from overspill_sidecar.commands.cluster import check_job_id, parse_shown_job, trail_facts
from overspill_sidecar.commands.explain import budget_words, matching, site_words
from overspill_sidecar.decision import budget, capacity, choice, decide, eligibility, shape, target
from overspill_sidecar.records import reasons
from overspill_sidecar.records.reasons import sentence
from overspill_sidecar.slurm import queries


def _job(**changes: object) -> Job:
    recorded = Path(__file__).parent / "slurm_22_05/job.txt"
    return replace(queries.parse_jobs(recorded.read_bytes().decode(), "\x1e")[0], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "-1", "1;2", "1_", "1_[1-3]", "--json"])
def test_what_is_no_job_id_never_reaches_slurm(text: str) -> None:
    with pytest.raises(NotFoundError, match="is no job id"):
        check_job_id(text)


def test_a_job_cannot_forge_the_path_of_its_output() -> None:
    lines = [
        "JobId=7 ArrayJobId=5 ArrayTaskId=1 JobName=x StdOut=/etc/passwd",
        "   StdOut=/etc/shadow",
        "   UserId=alice(2001)",
        "   Comment=a",
        "   StdOut=/etc/group",
        "   WorkDir=/home/alice",
        "   StdOut=/home/alice/slurm 7=1.out",
        "   Power=",
    ]
    shown = parse_shown_job("\n".join(lines))
    assert shown["StdOut"] == "/home/alice/slurm 7=1.out"
    assert shown["JobName"] == "x StdOut=/etc/passwd"


@pytest.mark.parametrize("comment", ["", "text", "[1]", '{"overspill": 3}', '{"theirs": {}}'])
def test_an_admin_comment_of_somebody_elses_is_no_trail(comment: str) -> None:
    assert trail_facts(comment) == {}


def test_a_local_jobs_decision_is_one_of_its_name_and_partition_the_nearest_first() -> None:
    job = _job(partitions=("batch",), submit_time_s=1000)
    records = [
        DecisionRecord(decision_id="late", verdict="LOCAL", job_name="x", decided_at_ms=1_001_500),
        DecisionRecord(decision_id="near", verdict="LOCAL", job_name="x", partition="batch", decided_at_ms=999_900),
        DecisionRecord(decision_id="other name", verdict="LOCAL", job_name="y", decided_at_ms=1_000_000),
        DecisionRecord(
            decision_id="elsewhere", verdict="LOCAL", job_name="x", partition="long", decided_at_ms=1_000_000
        ),
        DecisionRecord(decision_id="diverted", verdict="DIVERT", job_name="x", decided_at_ms=1_000_000),
    ]
    assert [record.decision_id for record in matching(records, job, "x")] == ["near", "late"]


def test_every_reason_in_the_code_has_a_sentence() -> None:
    words = {reason for reason, _ in eligibility._NEVER_DIVERTED}  # noqa: SLF001 - the table is the truth
    for module in (decide, budget, capacity, choice, shape, target):
        source = inspect.getsource(module)
        words |= set(re.findall(r'StaysLocal\("(\w+)"\)', source))
        words |= set(re.findall(r'(?:return|reason = |\() ?"([a-z]+_[a-z_]+)"[,\n ]', source))
    words -= {"stays_local"}
    unexplained = {word for word in words if word not in reasons._ALL and "_" in word}  # noqa: SLF001
    assert not unexplained


def test_an_accounts_limit_is_explained_with_its_numbers() -> None:
    use = AccountUse(account="physics", jobs=3, max_jobs=4, asked_jobs=2, asked_cpu_hours=8)
    assert budget_words(use) == "physics: 3 of 4 jobs, this one adds 2"
    use = AccountUse(cpu_hours=96.04, max_cpu_hours=100, asked_cpu_hours=8)
    assert budget_words(use) == "(none): 96.0 of 100 CPU-hours of the day, this one adds 8.0"
    use.ClearField("asked_cpu_hours")
    assert budget_words(use).endswith("this one adds no end: it has no time limit")


def test_each_site_says_why_it_does_not_get_the_job() -> None:
    decision = DecisionRecord(site="site-a")
    chosen = SiteAnswer(name="site-a", is_reachable=True, free_cpus=8, delay_s=3.2, price=0.25)
    assert site_words(chosen, decision) == (
        "chosen; 8 CPUs and 0 MiB were free; jobs started within 3 s; 0.25 a CPU-hour"
    )
    other = SiteAnswer(name="site-b", is_reachable=True, free_cpus=4, reason="dearer")
    assert site_words(other, decision) == (
        "it could take the job now, but is dearer than the chosen site; 4 CPUs and 0 MiB were free"
    )


def test_a_shadowed_decision_says_what_would_have_been() -> None:
    assert "otherwise it would have gone" in sentence("shadow_wait_above_threshold")
    assert sentence("some_newer_word") == "some newer word"


def test_a_reader_of_a_log_that_goes_away_is_not_taken_for_an_unreadable_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "slurm-1.out").write_bytes(b"x" * 1_000_000)
    reading_fd, writing_fd = os.pipe()
    os.close(reading_fd)
    with os.fdopen(writing_fd, "wb", buffering=0) as pipe:
        monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=pipe))
        with pytest.raises(BrokenPipeError):
            logs._copy(logs._Output(_job(), tmp_path / "slurm-1.out"), follow=False)  # noqa: SLF001 - the edge of it


@pytest.mark.parametrize("arguments", [["decide", "--ntasks", "-5"], ["jobs", "--state", "RUNING"]])
def test_what_no_job_can_be_is_a_wrong_call(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize(
    "command", [["status"], ["jobs"], ["explain", "1"], ["logs", "1"], ["nodes"], ["doctor"], ["decide"]]
)
def test_a_host_without_slurm_or_configuration_is_told_in_plain_lines(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("OVERSPILL_SIDECAR_CONFIG", "/nonexistent/sidecar.toml")
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    told = result.output.splitlines()
    assert told
    assert all(line.startswith(("overspill: ", "! ")) for line in told)
    assert "defect" not in result.output
