"""What `scontrol show job` tells of a pending job, and that no user can make it tell something else."""

from __future__ import annotations

import pytest

from overspill_sidecar.cluster import JobRequest
from overspill_sidecar.slurm.shown_job import parse_shown_job, show_job_argv
from tests.unit.sidecar_cluster import job

#: As 22.05.8 prints it, with SLURM_TIME_FORMAT=%s, of `sbatch --wrap hostname`.
_PLAIN = (
    "JobId=5 JobName=wrap UserId=alice(2001) GroupId=alice(2001) MCS_label=N/A Priority=4294901755 Nice=0"
    " Account=(null) QOS=(null) JobState=PENDING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1"
    " Reboot=0 ExitCode=0:0 RunTime=00:00:00 TimeLimit=00:10:00 TimeMin=N/A SubmitTime=1795293128"
    " EligibleTime=1795293128 AccrueTime=Unknown StartTime=Unknown EndTime=Unknown Deadline=N/A SuspendTime=None"
    " SecsPreSuspend=0 LastSchedEval=1795293128 Scheduler=Main Partition=batch AllocNode:Sid=cluster:0"
    " ReqNodeList=(null) ExcNodeList=(null) NodeList= NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1"
    " ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=1000M,node=1,billing=1 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*"
    " MinCPUsNode=1 MinMemoryCPU=1000M MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 OverSubscribe=OK"
    " Contiguous=0 Licenses=(null) Network=(null) Command=(null) WorkDir=/home/alice"
    " StdErr=/home/alice/slurm-5.out StdIn=/dev/null StdOut=/home/alice/slurm-5.out Power= \n"
)


def _changed(*replaced: tuple[str, str]) -> JobRequest | None:
    text = _PLAIN
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_shown_job(text, 5)


def test_a_plain_job_asks_for_nothing_special() -> None:
    assert parse_shown_job(_PLAIN, 5) == JobRequest(memory_per_cpu_mib=1000)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Dependency=(null)", "Dependency=afterok:4(unfulfilled)", {"dependency": "afterok:4(unfulfilled)"}),
        ("Licenses=(null)", "Licenses=l:1", {"licenses": "l:1"}),
        ("ReqNodeList=(null)", "ReqNodeList=c1", {"required_nodes": "c1"}),
        ("ExcNodeList=(null)", "ExcNodeList=c1", {"excluded_nodes": "c1"}),
        ("Features=(null)", "Features=a&b", {"features": "a&b"}),
        ("BatchFlag=1", "BatchFlag=0", {"has_script": False}),
        ("Priority=4294901755", "Priority=0", {"is_held": True}),
        ("OverSubscribe=OK", "OverSubscribe=NO", {"is_exclusive": True}),
        ("OverSubscribe=OK", "OverSubscribe=USER", {"is_exclusive": True}),
        ("OverSubscribe=OK", "OverSubscribe=NO Exclusive=NO", {}),
        ("OverSubscribe=OK", "OverSubscribe=NO Exclusive=NODE", {"is_exclusive": True}),
        ("OverSubscribe=OK", "OverSubscribe=NO Exclusive=USER", {"is_exclusive": True}),
        ("NumNodes=1", "NumNodes=2-4", {"min_nodes": 2, "max_nodes": 4}),
        ("NumTasks=1", "NumTasks=3", {"num_tasks": 3}),
        ("NtasksPerN:B:S:C=0:0:*:*", "NtasksPerN:B:S:C=2:0:*:*", {"tasks_per_node": 2}),
        ("JobName=wrap", "HetJobId=4 HetJobOffset=1 JobName=wrap", {"is_het": True}),
        ("Deadline=N/A", "Deadline=N/A CronJob=Yes", {"is_cron": True}),
        ("Power=", 'Power= CrontabSpec="1', {"is_cron": True}),
        ("Power=", "Power= BurstBuffer=#BB", {"burst_buffer": "#BB"}),
        ("Power=", "Power= Container=/c", {"container": "/c"}),
        ("Power=", "Power= TresPerNode=gres:gpu:2", {"tres": ("gres:gpu:2",), "tres_scopes": ("node",)}),
        ("Power=", "Power= TresPerTask=cpu=2,gres/gpu=1", {"tres": ("gres/gpu=1",), "tres_scopes": ("task",)}),
        ("Power=", "Power= CpusPerTres=gres:gpu:2", {"cpus_per_tres": "gres:gpu:2"}),
        ("Power=", "Power= MemPerTres=gres:gpu:2", {"mem_per_tres": "gres:gpu:2"}),
        ("CoreSpec=*", "CoreSpec=1", {"odd_options": ("core-spec",)}),
        ("Power=", "Power= Switches=1@00:05:00", {"odd_options": ("switches",)}),
        ("Power=", "Power= NtasksPerTRES=2", {"odd_options": ("ntasks-per-gpu",)}),
        ("MinTmpDiskNode=0", "MinTmpDiskNode=1G", {"odd_options": ("tmp",)}),
        ("TimeMin=N/A", "TimeMin=00:01:00", {"odd_options": ("time-min",)}),
        ("Deadline=N/A", "Deadline=1795293999", {"odd_options": ("deadline",)}),
        ("Reboot=0", "Reboot=1", {"odd_options": ("reboot",)}),
        ("Contiguous=0", "Contiguous=1", {"odd_options": ("contiguous",)}),
        ("MinCPUsNode=1", "MinCPUsNode=4", {"odd_options": ("mincpus",)}),
        ("ReqB:S:C:T=0:0:*:*", "ReqB:S:C:T=0:2:*:1", {"odd_options": ("sockets-per-node", "threads-per-core")}),
        ("S:C=0:0:*:*", "S:C=0:0:1:2", {"odd_options": ("ntasks-per-socket", "ntasks-per-core")}),
    ],
)
def test_what_a_job_asks_for_is_told(old: str, new: str, expected: dict[str, object]) -> None:
    asked = _changed((old, new))
    plain = JobRequest(memory_per_cpu_mib=1000)
    assert asked is not None
    told = {name: getattr(asked, name) for name in JobRequest.__dataclass_fields__}
    assert told == {name: expected.get(name, getattr(plain, name)) for name in JobRequest.__dataclass_fields__}


def test_memory_of_nodes_and_all_of_it_are_told_apart_from_that_of_cpus() -> None:
    of_node = _changed(("MinMemoryCPU=1000M", "MinMemoryNode=2G"))
    assert of_node is not None
    assert (of_node.memory_per_node_mib, of_node.memory_per_cpu_mib, of_node.asks_all_memory) == (2048, 0, False)
    of_all = _changed(("MinMemoryCPU=1000M", "MinMemoryNode=0"))
    assert of_all is not None
    assert of_all.asks_all_memory


def test_cpus_of_a_task_raise_what_a_node_must_have() -> None:
    asked = _changed(("CPUs/Task=1", "CPUs/Task=4"), ("MinCPUsNode=1", "MinCPUsNode=4"))
    assert asked is not None
    assert (asked.cpus_per_task, asked.odd_options) == (4, ())


@pytest.mark.parametrize(
    "forged",
    [
        "JobName=x Licenses=(null)",
        "JobName=x MinMemoryNode=1M",
        "JobName=x\nJobId=5 Licenses=(null)",
        "JobName=x NumNodes=1",
    ],
)
def test_a_name_that_looks_like_a_field_or_a_record_makes_the_record_worth_nothing(forged: str) -> None:
    assert _changed(("JobName=wrap", forged), ("Licenses=(null)", "Licenses=l:1")) is None


@pytest.mark.parametrize("end", ["\n", "\n\n", "\x0c", "\x85", "\u2028"])
def test_a_name_that_holds_a_whole_record_does_not_hide_the_true_one_behind_it(end: str) -> None:
    all_else = _PLAIN.strip().partition("JobName=wrap ")[2]
    forged = f"JobName=x {all_else}{end}JobId=999 JobName=y"
    assert _changed(("JobName=wrap", forged), ("y UserId", "y Licenses=l:1 UserId")) is None


def test_a_name_that_claims_to_share_its_nodes_is_not_believed() -> None:
    asked = _changed(("JobName=wrap", "JobName=x Exclusive=NO"), ("OverSubscribe=OK", "OverSubscribe=NO"))
    assert asked is not None
    assert asked.is_exclusive


@pytest.mark.parametrize("lost", ["Reboot=0", "OverSubscribe=OK", "MinMemoryCPU=1000M", "ReqB:S:C:T=0:0:*:*"])
def test_a_slurm_that_prints_a_field_otherwise_makes_the_record_worth_nothing(lost: str) -> None:
    assert _changed((lost, "")) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [("NumNodes=1", "NumNodes=many"), ("ReqB:S:C:T=0:0:*:*", "ReqB:S:C:T=*"), ("NumTasks=1", "NumTasks=")],
)
def test_a_number_that_is_none_makes_the_record_worth_nothing(old: str, new: str) -> None:
    assert _changed((old, new)) is None


def test_of_an_array_one_of_the_tasks_that_wait_together_is_asked_about() -> None:
    array = job(5, array_job_id=5, array_tasks="2-9", tasks=8)
    assert show_job_argv(array)[-1] == "5_9"
    assert show_job_argv(job(6, array_job_id=5, array_task_id=1))[-1] == "5_1"
    assert show_job_argv(job(7))[-1] == "7"


_OF_ARRAY = ("JobId=5 ", "JobId=5 ArrayJobId=5 ArrayTaskId=2-9 ")


def test_the_record_of_an_array_is_read_unless_it_is_another_jobs_or_one_of_several() -> None:
    text = _PLAIN.replace(*_OF_ARRAY)
    assert parse_shown_job(text, 5) == JobRequest(memory_per_cpu_mib=1000)
    assert parse_shown_job(text, 6) is None
    assert parse_shown_job(text + _PLAIN.replace("JobId=5 ", "JobId=6 ArrayJobId=5 ArrayTaskId=1 "), 5) is None


def test_the_name_of_an_array_does_not_hide_its_true_record_either() -> None:
    all_else = _PLAIN.strip().partition("JobName=wrap ")[2]
    forged = f"JobName=x {all_else}\nJobId=999 ArrayJobId=5 ArrayTaskId=1 JobName=y"
    assert _changed(_OF_ARRAY, ("JobName=wrap", forged), ("y UserId", "y Licenses=l:1 UserId")) is None


@pytest.mark.parametrize("name", ["two\nlines", "x\nJobId=5 JobName=y", "x\nUserId=1"])
def test_a_name_of_two_lines_that_claims_nothing_hides_nothing(name: str) -> None:
    asked = _changed(("JobName=wrap", f"JobName={name}"), ("Licenses=(null)", "Licenses=l:1"))
    assert asked is not None
    assert asked.licenses == "l:1"
