"""Jobs of the past, and the files that tell of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import InvalidRequestError
from overspill_sidecar.history import (
    SACCT_FIELDS,
    Kind,
    PastJob,
    moments,
    processors_of_swf,
    read_completion_log,
    read_sacct,
    read_swf,
    sacct_argv,
)

_HEADER = "|".join(SACCT_FIELDS)
_RAN = "41|1000|1000|1600|2600|2|2|64|64|30|alice|physics|batch|normal|4294901700"
_ENDED = (
    "JobId=7 UserId=alice(1000) GroupId=alice(1000) Name={name} JobState={state} Partition=batch TimeLimit={limit}"
    " StartTime=2026-03-01T10:10:00 EndTime=2026-03-01T11:00:00 NodeList={hosts} NodeCnt=2 ProcCnt=8"
    " WorkDir={directory} ReservationName= Tres=cpu=8,node=2 Account=physics QOS=normal WcKey= Cluster=c1"
    " SubmitTime=2026-03-01T10:00:00 EligibleTime=2026-03-01T10:05:00 ArrayJobId=7 ArrayTaskId=1"
    " DerivedExitCode=0:0 ExitCode=0:0 \n"
)
_SWF = "3  120 30  600 16 -1 -1  32 900 -1 {status}  5 1 -1 2 -1 -1 -1"


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _past(queued: float, start: float | None, end: float | None) -> PastJob:
    return PastJob("1", queued, start, end, 1, None, "alice", "batch")


def test_sacct_tells_of_a_job_that_ran() -> None:
    (job,) = read_sacct([_HEADER, _RAN])
    assert (job.job_id, job.submit_s, job.start_s, job.end_s, job.wait_s) == ("41", 1000, 1600, 2600, 600)
    assert (job.cpus, job.nodes, job.time_limit_s, job.priority) == (64, 2, 1800, 4294901700)
    assert (job.user, job.account, job.partition, job.qos) == ("alice", "physics", "batch", "normal")


def test_sacct_in_local_time_is_read_alike() -> None:
    line = "41|2026-03-01T10:00:00|Unknown|2026-03-01T10:10:00|Unknown|1|1|4|4|UNLIMITED|alice||batch,long||"
    (job,) = read_sacct([_HEADER, line])
    assert (job.wait_s, job.end_s, job.time_limit_s, job.partition) == (600, None, None, "batch")


def test_a_job_that_was_cancelled_while_it_waited_has_not_started() -> None:
    (job,) = read_sacct([_HEADER, "41|1000|1000|1500|1500|0|2|0|64|30|alice||batch||"])
    assert (job.start_s, job.end_s, job.cpus, job.nodes, job.wait_s) == (None, 1500, 64, 2, None)


def test_a_wait_counts_from_when_the_job_was_eligible() -> None:
    (job,) = read_sacct([_HEADER, "41|1000|1500|1600|2600|1|1|1|1|30|alice||batch||"])
    assert job.wait_s == 100


def test_steps_of_a_job_are_passed_over() -> None:
    assert list(read_sacct([_HEADER, _RAN.replace("41|", "41.batch|", 1)])) == []


def test_sacct_without_its_header_is_refused_with_the_command_to_use() -> None:
    with pytest.raises(InvalidRequestError, match="sacct --parsable2 --allusers"):
        list(read_sacct([_RAN]))
    assert sacct_argv("now-1day")[-1] == f"--format={','.join(SACCT_FIELDS)}"


def test_a_bad_line_is_named_by_its_number_or_taken_note_of() -> None:
    lines = [_HEADER, _RAN, "41|half a li", _RAN.replace("|1000|", "|soon|", 1), _RAN]
    with pytest.raises(InvalidRequestError, match="line 3 is no record of sacct: 2 fields"):
        list(read_sacct(lines))
    bad: list[int] = []
    assert len(list(read_sacct(lines, lambda number, _: bad.append(number)))) == 2
    assert bad == [3, 4]


def test_the_completion_log_tells_of_a_job_that_ran() -> None:
    line = _ENDED.format(name="run", state="COMPLETED", limit=90, hosts="c[1-2]", directory="/home/alice")
    (job,) = read_completion_log([line])
    assert (job.wait_s, job.cpus, job.nodes, job.time_limit_s) == (300, 8, 2, 5400)
    assert (job.user, job.account, job.partition, job.qos) == ("alice", "physics", "batch", "normal")


def test_the_completion_log_tells_who_never_started() -> None:
    line = _ENDED.format(name="run", state="CANCELLED", limit="UNLIMITED", hosts="(null)", directory="/")
    (job,) = read_completion_log([line])
    assert (job.start_s, job.time_limit_s) == (None, None)
    assert job.end_s is not None


def test_names_and_directories_that_look_like_fields_do_not_hinder() -> None:
    for text in ("a b", "Name= JobState=FAILED Partition=x", "StartTime=1 EndTime=2"):
        line = _ENDED.format(name=text, state="COMPLETED", limit="1-00:00:00", hosts="c1", directory=f"/tmp/{text}")
        (job,) = read_completion_log([line, "\n"])
        assert (job.user, job.partition, job.time_limit_s) == ("alice", "batch", 86400)


def test_a_strange_line_in_the_completion_log_is_named() -> None:
    with pytest.raises(InvalidRequestError, match=r"line 1 is no record of jobcomp/filetxt: .*'JobId=7"):
        list(read_completion_log(["JobId=7 was here\n"]))


def test_the_standard_workload_format_is_read() -> None:
    text = ["; MaxProcs: 1024\n", ";\n", _SWF.format(status=1)]
    (job,) = read_swf(text)
    assert (job.submit_s, job.start_s, job.end_s, job.wait_s) == (120, 150, 750, 30)
    assert (job.cpus, job.time_limit_s, job.user, job.partition) == (32, 900, "5", "2")
    assert processors_of_swf(text) == 1024
    assert processors_of_swf([_SWF.format(status=1)]) is None


def test_partitions_of_the_workload_format_have_names_that_a_policy_can_say() -> None:
    line = "3 120 30 600 16 -1 -1 32 900 -1 1 5 1 -1 {queue} {partition} -1 -1"
    told = [(2, 3), (2, -1), (-1, 3), (-1, -1), (0, 0)]
    jobs = read_swf(line.format(queue=queue, partition=partition) for queue, partition in told)
    assert [job.partition for job in jobs] == ["2.3", "2", "3", "all", "0.0"]


def test_parts_of_a_checkpointed_job_are_not_jobs() -> None:
    assert [len(list(read_swf([_SWF.format(status=status)]))) for status in (0, 1, 2, 3, 4, 5)] == [1, 1, 0, 0, 0, 1]


def test_a_job_of_the_workload_format_that_never_ran_left_the_queue() -> None:
    (job,) = read_swf(["3 120 30 -1 -1 -1 -1 32 900 -1 5 5 1 -1 2 -1 -1 -1"])
    assert (job.start_s, job.end_s, job.cpus) == (None, 150, 32)


def test_a_line_that_is_no_workload_is_refused() -> None:
    for line in ("1 2 3", "a b c", _SWF.format(status=1).replace("600", "inf"), _SWF.format(status="nan")):
        with pytest.raises(InvalidRequestError, match="line 1 is no line of the standard workload format"):
            list(read_swf([line]))


def test_what_ends_makes_room_for_what_starts_and_both_come_before_a_submission() -> None:
    jobs = [_past(0, 5, 10), _past(2, 10, 20), _past(10, None, 12)]
    seen = [(moment.at_s, moment.kind, moment.key) for moment in moments(jobs)]
    assert seen == [
        (0, Kind.SUBMITTED, 0),
        (2, Kind.SUBMITTED, 1),
        (5, Kind.STARTED, 0),
        (10, Kind.ENDED, 0),
        (10, Kind.STARTED, 1),
        (10, Kind.SUBMITTED, 2),
        (12, Kind.REMOVED, 2),
        (20, Kind.ENDED, 1),
    ]


_times = st.integers(0, 5).map(float)
_jobs = st.builds(_past, _times, st.none() | _times, st.none() | _times)


@given(st.lists(_jobs, max_size=8))
def test_each_job_is_submitted_before_it_starts_and_starts_before_it_ends(jobs: list[PastJob]) -> None:
    order = [Kind.SUBMITTED, Kind.STARTED, Kind.REMOVED, Kind.ENDED]
    happened = list(moments(jobs))
    assert [moment.at_s for moment in happened] == sorted(moment.at_s for moment in happened)
    for key in range(len(jobs)):
        kinds = [moment.kind for moment in happened if moment.key == key]
        assert kinds == sorted(kinds, key=order.index)
        assert kinds[0] is Kind.SUBMITTED
