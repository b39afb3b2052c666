"""What `scontrol show job` says that a pending job asks for. Pure.

A user chooses names, comments and paths, and may make them look like other fields of the record, or like other jobs'
records, for a name may have a line's end in it. He cannot keep the true ones from being printed: it is asked for a
single record, of an array for that of one of its tasks, all that is printed counts, and whatever is there twice is not
believed, nor is anything else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from overspill_sidecar.cluster import Job, JobRequest
from overspill_sidecar.slurm_text import last_array_tasks, parse_size_mib

_PAIR = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)", re.ASCII)
#: Printed of every job, on 22.05, 24.11 and 26.05.
_ALWAYS = (
    "Priority",
    "Dependency",
    "BatchFlag",
    "Reboot",
    "TimeMin",
    "Deadline",
    "ReqNodeList",
    "ExcNodeList",
    "NumNodes",
    "NumTasks",
    "CPUs/Task",
    "ReqB:S:C:T",
    "NtasksPerN:B:S:C",
    "CoreSpec",
    "MinCPUsNode",
    "MinTmpDiskNode",
    "Features",
    "OverSubscribe",
    "Contiguous",
    "Licenses",
)
#: Printed of jobs that ask for it.
_SOMETIMES = (
    "MinMemoryCPU",
    "MinMemoryNode",
    "BurstBuffer",
    "Container",
    "HetJobId",
    "CronJob",
    "CrontabSpec",
    "Switches",
    "NtasksPerTRES",
    "CpusPerTres",
    "MemPerTres",
    "TresPerJob",
    "TresPerNode",
    "TresPerSocket",
    "TresPerTask",
)
_NOT_SET = frozenset({"", "0", "*", "N/A", "(null)"})
_SCOPES = ("Job", "Node", "Socket", "Task")
_SHARED = frozenset({"OK", "YES"})
#: Since 26.05 `Exclusive` says whether a job shares its nodes. It counts only beside the one true `OverSubscribe`.
_SHARING = re.compile(r"\sOverSubscribe=(\S+) (?:Exclusive=(\S+) )?Contiguous=")


def show_job_argv(job: Job) -> list[str]:
    """Return the command that prints the job's one record.

    By an array's id slurmctld tells all its records; by one of its tasks that which the task is in (seen on 22.05).
    """
    task = f"{job.array_job_id}_{last_array_tasks(job.array_tasks, 1)[0]}" if job.array_tasks else job.name
    return ["scontrol", "--oneliner", "show", "job", task]


def parse_shown_job(text: str, slurm_job_id: int) -> JobRequest | None:
    """Read what `show_job_argv` prints; None if that is not this job's one record, or can be read in two ways."""
    if not text.startswith(f"JobId={slurm_job_id} "):
        return None
    pairs = _PAIR.findall(text)
    seen = Counter(name for name, _ in pairs)
    if any(seen[name] != 1 for name in _ALWAYS) or any(seen[name] > 1 for name in _SOMETIMES):
        return None
    if seen["MinMemoryCPU"] + seen["MinMemoryNode"] != 1:
        return None
    sharing = _SHARING.search(text)
    if sharing is None:
        return None
    is_exclusive = sharing[2] != "NO" if sharing[2] else sharing[1] not in _SHARED
    try:
        return _request(dict(pairs), is_exclusive=is_exclusive)
    except (ValueError, IndexError):
        return None


def _request(said: Mapping[str, str], *, is_exclusive: bool) -> JobRequest:
    """Return the request.

    Raises:
        ValueError, IndexError: if a number is none.
    """
    least, _, most = said["NumNodes"].partition("-")
    cpus_per_task = _number(said["CPUs/Task"])
    tres = {scope.lower(): _without_cpus(_given(said, f"TresPer{scope}")) for scope in _SCOPES}
    return JobRequest(
        features=_given(said, "Features"),
        licenses=_given(said, "Licenses"),
        required_nodes=_given(said, "ReqNodeList"),
        excluded_nodes=_given(said, "ExcNodeList"),
        dependency=_given(said, "Dependency"),
        burst_buffer=_given(said, "BurstBuffer"),
        container=_given(said, "Container"),
        has_script=said["BatchFlag"] != "0",
        is_het="HetJobId" in said,
        is_cron="CronJob" in said or "CrontabSpec" in said,
        is_held=said["Priority"] == "0",
        is_exclusive=is_exclusive,
        asks_all_memory=said.get("MinMemoryNode", "").rstrip("MK") == "0",
        min_nodes=int(least),
        max_nodes=int(most or 0),
        num_tasks=int(said["NumTasks"]),
        # One is what everybody has.
        cpus_per_task=cpus_per_task if cpus_per_task > 1 else 0,
        tasks_per_node=_number(said["NtasksPerN:B:S:C"].split(":")[0]),
        memory_per_cpu_mib=parse_size_mib(said.get("MinMemoryCPU", "0")),
        memory_per_node_mib=parse_size_mib(said.get("MinMemoryNode", "0")),
        tres=tuple(request for request in tres.values() if request),
        tres_scopes=tuple(scope for scope, request in tres.items() if request),
        cpus_per_tres=_given(said, "CpusPerTres"),
        mem_per_tres=_given(said, "MemPerTres"),
        odd_options=tuple(_odd_options(said, cpus_per_task)),
    )


def _odd_options(said: Mapping[str, str], cpus_per_task: int) -> list[str]:
    """Return the options that no site can honour, as sbatch spells them."""
    _, sockets, cores, threads = said["ReqB:S:C:T"].split(":")
    _, _, per_socket, per_core = said["NtasksPerN:B:S:C"].split(":")
    asked = {
        "core-spec": said["CoreSpec"],
        "switches": said.get("Switches", ""),
        "tmp": said["MinTmpDiskNode"].rstrip("MG"),
        "time-min": said["TimeMin"],
        "deadline": said["Deadline"],
        "reboot": said["Reboot"],
        "contiguous": said["Contiguous"],
        "sockets-per-node": sockets,
        "cores-per-socket": cores,
        "threads-per-core": threads,
        "ntasks-per-socket": per_socket,
        "ntasks-per-core": per_core,
        "ntasks-per-gpu": said.get("NtasksPerTRES", ""),
    }
    odd = [option for option, value in asked.items() if value not in _NOT_SET]
    return odd + (["mincpus"] if _number(said["MinCPUsNode"]) > max(cpus_per_task, 1) else [])


def _given(said: Mapping[str, str], name: str) -> str:
    value = said.get(name, "")
    return "" if value in _NOT_SET else value


def _number(text: str) -> int:
    return 0 if text in _NOT_SET else int(text)


def _without_cpus(request: str) -> str:
    """Return generic resources without the CPUs, which stand there, too, since 23.11."""
    return ",".join(item for item in request.split(",") if not item.startswith(("cpu:", "cpu=")))
