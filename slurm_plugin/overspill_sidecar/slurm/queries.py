"""The questions put to Slurm's commands, and how to read the answers. Pure.

Users choose job names, comments and paths, and may put newlines, `|` or `JobState=RUNNING` into them, so that none of
these is asked for with the rest: a job cannot forge its own record. Fields end with a character that none of these has;
the account, which may be any text, is last, and what ends it is a secret (`jobs_format`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from overspill.errors import UnavailableError
from overspill_sidecar.cluster import (
    ClusterConfig,
    GpuDefaults,
    Job,
    JobDetails,
    Node,
    Partition,
    Reservation,
    Trail,
)
from overspill_sidecar.slurm_text import (
    count_array_tasks,
    expand_hosts,
    parse_duration_s,
    parse_size_mib,
    parse_time_limit_s,
    parse_tres,
)

_T = TypeVar("_T")
FIELD_END = "\x1f"
#: Source: squeue(1), --Format. Of `admin_comment`, which may also be anything, only operators can write it.
JOB_FIELDS = (
    "JobID",
    "ArrayJobID",
    "ArrayTaskID",
    "UserID",
    "UserName",
    "GroupID",
    "State",
    "Reason",
    "Partition",
    "NodeList",
    "BatchHost",
    "NumCPUs",
    "tres-alloc",
    "TimeLimit",
    "StartTime",
    "EndTime",
    "SubmitTime",
    "EligibleTime",
    "QOS",
    "Reservation",
    "PriorityLong",
    "RestartCnt",
    "Requeue",
    "Deadline",
    "CoreSpec",
    "admin_comment",
    "Account",
)
#: Who gave a node's reason, and when, is the end of it. Free text of admins, `Comment` and `Extra`, comes after.
_REASON = re.compile(r" Reason=(.*?) \[[^\s\[\]@]+@[^\s\[\]]+\](?: |$)")
#: Without accounting, users may give any text for an account (seen on 22.05: newlines too). Such a one is not told.
_ACCOUNT = re.compile(r"[\w.+@-]{1,128}")
#: slurmctld takes only features and generic resources that some node has: these hold no spaces.
_DETAILS = ("JobID", "Feature", "tres-per-job", "tres-per-node", "tres-per-socket", "tres-per-task")
_DETAILS_LINE = re.compile(r"(?P<id>\d+) (?P<constraint>\S*) (?P<tres>(?:\S* ){4})")
_GPU_TYPE = re.compile(r"(?<![\w.-])gpu[:=]([A-Za-z][\w.-]*)", re.ASCII)
#: Options that job_submit_lua does not show on every version, by the field that does.
_HIDDEN_OPTIONS = {"Deadline": "deadline", "CoreSpec": "core-spec"}
#: Of every SlurmctldHost, in their order.
_CONTROLLER = re.compile(r"^Slurmctld\(\w+\) at (\S+) is (\w+)$", re.MULTILINE)
#: Of the states of jobs that are over those that every squeue takes (seen: 22.05, 24.11, 26.05).
_OVER_STATES = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
)
_PAIR = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)")
_NO_RESERVATIONS = "No reservations in the system"
_DRAINED = frozenset({"DRAIN", "DRAINED", "DRAINING"})
#: A reason is one as long as the node is in such a state.
_WITH_REASON = _DRAINED | {"DOWN", "FAIL", "FAILING", "INVAL", "INVALID_REG"}
#: Flags of a node's state on which no new job is started. Source: sinfo(1), NODE STATE CODES.
_UNUSABLE = frozenset(
    {
        "BLOCKED",
        "DOWN",
        "DRAIN",
        "DRAINED",
        "DRAINING",
        "FAIL",
        "FAILING",
        "FUTURE",
        "INVAL",
        "INVALID_REG",
        "MAINT",
        "NOT_RESPONDING",
        "REBOOT",
        "REBOOT_ISSUED",
        "REBOOT_REQUESTED",
        "RESERVED",
        "UNKNOWN",
    }
)


def jobs_argv(slurm_job_ids: Collection[int] = ()) -> list[str]:
    """Return the command that prints all jobs that are not over, or these jobs in whatever state.

    Of several ids squeue passes over those that it does not know; a single one that it does not know is an error.
    """
    chosen = [f"--jobs={','.join(map(str, sorted(slurm_job_ids)))}", "--states=all"] if slurm_job_ids else []
    return ["squeue", "--noheader", "--all", *chosen]


def jobs_format(record_end: str) -> dict[str, str]:
    """Return the environment in which `jobs_argv` prints what `parse_jobs` reads.

    Args:
        record_end: a text that no user can guess and write into a job. Unlike a process's arguments, its environment
            is hidden from other users.
    """
    *fields, last = JOB_FIELDS
    return {"SQUEUE_FORMAT2": ",".join(f"{name}:{FIELD_END}" for name in fields) + f",{last}:{record_end}"}


def over_argv() -> list[str]:
    """Return the command that prints the admin_comment of each job that is over and not forgotten yet."""
    return ["squeue", "--noheader", "--all", f"--states={','.join(_OVER_STATES)}"]


def over_format(record_end: str) -> dict[str, str]:
    """Return the environment in which `over_argv` prints what `parse_over` reads; as `jobs_format`."""
    return {"SQUEUE_FORMAT2": f"admin_comment:{record_end}"}


def parse_over(text: str, record_end: str) -> frozenset[str]:
    """Read what `over_argv` prints: the ids of the decisions in it."""
    trails = map(parse_trail, text.split(record_end))
    return frozenset(trail.decision_id for trail in trails if trail)


def details_argv(slurm_job_ids: Collection[int]) -> list[str]:
    """Return the command that prints these jobs' details, in whatever state they are."""
    jobs = ",".join(map(str, sorted(slurm_job_ids)))
    form = ",".join(f"{name}: " for name in _DETAILS)
    return ["squeue", "--noheader", "--all", f"--Format={form}", f"--jobs={jobs}", "--states=all"]


def partitions_argv() -> list[str]:
    return ["scontrol", "--oneliner", "show", "partition"]


def nodes_argv(names: Sequence[str] = ()) -> list[str]:
    """Return the command that prints all nodes, or these."""
    return ["scontrol", "--oneliner", "show", "node", *([",".join(names)] if names else [])]


def node_update_argv(names: Sequence[str], **fields: str) -> list[str]:
    return [
        "scontrol",
        "update",
        f"NodeName={','.join(names)}",
        *(f"{name}={value}" for name, value in fields.items()),
    ]


def reservations_argv() -> list[str]:
    return ["scontrol", "--oneliner", "show", "reservation"]


def config_argv() -> list[str]:
    return ["scontrol", "show", "config"]


def federation_argv() -> list[str]:
    """Return the command that prints nothing where the cluster is in no federation (seen on 22.05)."""
    return ["scontrol", "show", "federation"]


def update_argv(job: str, fields: Mapping[str, str]) -> list[str]:
    return ["scontrol", "update", f"JobId={job}", *(f"{name}={value}" for name, value in fields.items())]


def requeue_argv(job: str) -> list[str]:
    """Return the command that requeues a job unless it is pending, cancelled or over (scontrol(1); seen on 22.05)."""
    return ["scontrol", "requeue", "Incomplete", job]


def parse_jobs(text: str, record_end: str) -> tuple[Job, ...]:
    """Read what `jobs_argv` prints in the environment of `jobs_format` with the same `record_end`.

    Raises:
        UnavailableError: as of `parse_records`.
    """
    return tuple(parse_records(text, record_end, {}).values())


def parse_records(text: str, record_end: str, known: Mapping[str, Job]) -> dict[str, Job]:
    """Return the job of each record of what `jobs_argv` prints.

    Args:
        text: see `parse_jobs`.
        record_end: see `parse_jobs`.
        known: what this has returned before: a record that is the same is not read again.

    Raises:
        UnavailableError: if a record is not as asked for. A squeue that does not know a field prints what it knows and
            still exits with 0, and half a queue is worse than none.
    """
    records = [record.removeprefix("\n") for record in text.split(record_end)]
    if records.pop().strip():
        raise UnavailableError("the last record of the queue has no end")
    return {record: known.get(record) or _parse_job(record) for record in records}


def parse_details(text: str) -> dict[int, JobDetails]:
    """Read what `details_argv` prints: a job's line is its id and what it asks for."""
    matches = (_DETAILS_LINE.fullmatch(line) for line in text.splitlines())
    return {int(match["id"]): _details(match) for match in matches if match}


def _details(match: re.Match[str]) -> JobDetails:
    types = {match[1].lower() for match in _GPU_TYPE.finditer(match["tres"])}
    return JobDetails(
        constraint=_given(match["constraint"]),
        gpu_type=types.pop() if len(types) == 1 else "",
    )


def parse_partitions(text: str) -> dict[str, Partition]:
    """Read what `partitions_argv` prints.

    Raises:
        UnavailableError: if it is not intelligible.
    """
    return {partition.name: partition for partition in _parse_records(text, "PartitionName", _parse_partition)}


def parse_nodes(text: str) -> dict[str, Node]:
    """Read what `nodes_argv` prints.

    Raises:
        UnavailableError: if it is not intelligible.
    """
    return {node.name: node for node in _parse_records(text, "NodeName", _parse_node)}


def parse_reservations(text: str) -> tuple[Reservation, ...]:
    """Read what `reservations_argv` prints; one of licences or burst buffers alone takes no nodes.

    Raises:
        UnavailableError: if it is not intelligible.
    """
    if text.startswith(_NO_RESERVATIONS):
        return ()
    return tuple(_parse_records(text, "ReservationName", _parse_reservation))


def parse_config(text: str) -> ClusterConfig:
    """Read what `config_argv` prints.

    Raises:
        UnavailableError: if it is not intelligible.
    """
    lines = (line.partition("=") for line in text.splitlines())
    values = {name.strip(): value.strip() for name, _, value in lines}
    try:
        return ClusterConfig(
            cluster_name=values["ClusterName"],
            kill_wait_s=int(values["KillWait"].split()[0]),
            manages_memory="MEMORY" in values.get("SelectTypeParameters", "").upper(),
            memory_per_cpu_mib=_limit(values.get("DefMemPerCPU", "")),
            memory_per_node_mib=_limit(values.get("DefMemPerNode", "")),
            max_memory_per_cpu_mib=_limit(values.get("MaxMemPerCPU", "")),
            max_memory_per_node_mib=_limit(values.get("MaxMemPerNode", "")),
            gpu_defaults=_gpu_defaults(values.get("JobDefaults", "")),
            has_slurmdbd=values.get("AccountingStorageType", "") == "accounting_storage/slurmdbd",
            enforced=frozenset(_names(_given(values.get("AccountingStorageEnforce", "")))) - {"none"},
            acting_controller=_acting_controller(text),
            slurm_release=".".join(values.get("SLURM_VERSION", "").split(".")[:2]),
            parameters=tuple(_given(values.get(key, "")) for key in ("SlurmctldParameters", "SchedulerParameters")),
            # Not shown of priority/basic, where age counts nothing.
            priority_weight_age=_limit(values.get("PriorityWeightAge", "")) or 0,
            priority_max_age_s=parse_duration_s(values.get("PriorityMaxAge", "0")),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise UnavailableError(f"scontrol show config cannot be read: {error!r}") from error


def _acting_controller(text: str) -> str:
    """Return the first controller that is up, if there are several: the others stand by for it."""
    controllers = _CONTROLLER.findall(text)
    acting = [host for host, state in controllers if state == "UP"]
    return acting[0] if len(controllers) > 1 and acting else ""


def _parse_job(record: str) -> Job:
    values = record.split(FIELD_END, len(JOB_FIELDS) - 1)
    if len(values) < len(JOB_FIELDS):
        raise UnavailableError(f"a job has {len(values)} fields, asked were {len(JOB_FIELDS)}")
    field = dict(zip(JOB_FIELDS, values, strict=True))
    tres = parse_tres(field["tres-alloc"])
    try:
        return Job(
            slurm_job_id=int(field["JobID"]),
            array_job_id=int(field["ArrayJobID"]),
            array_task_id=int(field["ArrayTaskID"]) if field["ArrayTaskID"].isdecimal() else None,
            tasks=_tasks(field["ArrayTaskID"]),
            all_tasks=_tasks(field["ArrayTaskID"].partition("%")[0]),
            user_id=int(field["UserID"]),
            user_name=field["UserName"],
            group_id=int(field["GroupID"]),
            state=field["State"],
            reason=field["Reason"],
            partitions=tuple(field["Partition"].split(",")),
            nodes=field["NodeList"],
            batch_host=_given(field["BatchHost"]),
            cpus=int(field["NumCPUs"]),
            memory_mib=parse_size_mib(tres.get("mem", "0")),
            gpus=int(tres.get("gres/gpu", "0")),
            time_limit_s=parse_time_limit_s(field["TimeLimit"]),
            start_time_s=_time(field["StartTime"]),
            end_time_s=_time(field["EndTime"]),
            submit_time_s=_time(field["SubmitTime"]) or 0,
            priority=int(field["PriorityLong"]),
            restart_count=int(field["RestartCnt"]),
            can_requeue=field["Requeue"] == "1",
            admin_comment=_given(field["admin_comment"]),
            trail=parse_trail(field["admin_comment"]),
            hidden_options=tuple(
                option for name, option in _HIDDEN_OPTIONS.items() if _given(field[name]) not in {"", "0"}
            ),
            eligible_time_s=_time(field["EligibleTime"]),
            node_count=int(tres.get("node", "1")),
            account=field["Account"] if _ACCOUNT.fullmatch(field["Account"]) else "",
            qos=_given(field["QOS"]),
            reservation=_given(field["Reservation"]),
            array_tasks=_several_tasks(field["ArrayTaskID"]),
        )
    except ValueError as error:
        raise UnavailableError(f"the record of job {field['JobID']} cannot be read: {error}") from error


def parse_trail(admin_comment: str) -> Trail | None:
    """Return what Overspill wrote into an admin_comment when it diverted the job, None if it did not."""
    if '"overspill"' not in admin_comment:
        return None
    try:
        whole = json.loads(admin_comment)
    except ValueError:
        return None
    ours = whole.get("overspill") if isinstance(whole, dict) else None
    if not isinstance(ours, dict) or not ours.get("decision"):
        return None
    refused_by = ours.get("refused_by")
    return Trail(
        decision_id=str(ours.get("decision", "")),
        site=str(ours.get("site", "")),
        partition=str(ours.get("partition", "")),
        refused_by=tuple(map(str, refused_by)) if isinstance(refused_by, list) else (),
        unfenced_at=str(ours.get("unfenced_at", "")),
        image=str(ours.get("image", "")),
        time_limit=str(ours.get("time_limit_s", "")),
        added_at_s=_moment(ours.get("added_at_s")),
        recalled_at_s=_moment(ours.get("recalled_at_s")),
    )


def _moment(value: object) -> int:
    return value if isinstance(value, int) else 0


def _tasks(array_tasks: str) -> int:
    """Return how many tasks a record stands for; a plain job or a single task is one."""
    if not any(character in array_tasks for character in ",-%"):
        return 1
    return max(1, count_array_tasks(array_tasks))


def _several_tasks(array_tasks: str) -> str:
    """Return the tasks of a record that stands for several, as an array expression without its throttle."""
    tasks = array_tasks.partition("%")[0]
    return tasks if any(character in tasks for character in ",-") else ""


def _parse_partition(values: Mapping[str, str]) -> Partition:
    return Partition(
        name=values["PartitionName"],
        is_default=values.get("Default") == "YES",
        is_up=values.get("State") == "UP",
        starts_jobs=values.get("State") in {"UP", "DRAIN"},
        nodes=expand_hosts(_given(values.get("Nodes", ""))),
        max_time_s=parse_time_limit_s(values.get("MaxTime", "UNLIMITED")),
        default_time_s=parse_time_limit_s(values.get("DefaultTime", "NONE")),
        min_nodes=_limit(values.get("MinNodes", "")) or 0,
        max_nodes=_limit(values.get("MaxNodes", "")),
        memory_per_cpu_mib=_limit(values.get("DefMemPerCPU", "")),
        memory_per_node_mib=_limit(values.get("DefMemPerNode", "")),
        max_memory_per_cpu_mib=_limit(values.get("MaxMemPerCPU", "")),
        max_memory_per_node_mib=_limit(values.get("MaxMemPerNode", "")),
        max_cpus_per_node=_limit(values.get("MaxCPUsPerNode", "")),
        gpu_defaults=_gpu_defaults(values.get("JobDefaults", "")),
        is_exclusive=_is_exclusive(values),
        is_restricted=values.get("AllocNodes", "ALL") != "ALL" or values.get("ReqResv") == "YES",
        is_for_some_users=values.get("AllowGroups", "ALL") != "ALL" or values.get("RootOnly") == "YES",
        allow_accounts=_names(values.get("AllowAccounts", "ALL")),
        deny_accounts=_names(values.get("DenyAccounts", "")),
        allow_qos=_names(values.get("AllowQos", "ALL")),
        deny_qos=_names(values.get("DenyQos", "")),
        qos=_given(values.get("QoS", "")),
    )


def _is_exclusive(values: Mapping[str, str]) -> bool:
    """Return whether jobs share nodes with no other, or with their user's only. Since 26.05 `Exclusive` says it all."""
    is_users = any(values.get(name, "NO") != "NO" for name in ("Exclusive", "ExclusiveUser", "ExclusiveTopo"))
    return is_users or values.get("OverSubscribe", "").startswith("EXCLUSIVE")


def _parse_node(values: Mapping[str, str]) -> Node:
    state = values.get("State", "UNKNOWN").upper()
    flags = frozenset(state.replace("*", "").split("+"))
    configured, allocated = parse_tres(values.get("CfgTRES", "")), parse_tres(values.get("AllocTRES", ""))
    return Node(
        name=values["NodeName"],
        partitions=_names(values.get("Partitions", "")),
        is_usable="*" not in state and _UNUSABLE.isdisjoint(flags),
        cpus=int(values.get("CPUEfctv") or values.get("CPUTot", "0")),
        cpus_allocated=int(values.get("CPUAlloc", "0")),
        memory_mib=int(values.get("RealMemory", "0")),
        memory_allocated_mib=int(values.get("AllocMem", "0")),
        gpus=int(configured.get("gres/gpu", "0")),
        gpus_allocated=int(allocated.get("gres/gpu", "0")),
        features=frozenset(_names(values.get("ActiveFeatures", ""))),
        gpu_types=frozenset(match[1].lower() for match in _GPU_TYPE.finditer(values.get("Gres", ""))),
        threads_per_core=int(values.get("ThreadsPerCore", "1")),
        is_drained=not _DRAINED.isdisjoint(flags),
        is_planned="PLANNED" in flags,
        # Slurm 24.11 keeps it when the node is undrained.
        reason="" if flags.isdisjoint(_WITH_REASON) else values.get("Reason", ""),
    )


def _parse_reservation(values: Mapping[str, str]) -> Reservation:
    return Reservation(
        name=values["ReservationName"],
        nodes=expand_hosts(_given(values.get("Nodes", ""))),
        start_s=int(values["StartTime"]),
        end_s=int(values["EndTime"]),
        cpus=_limit(parse_tres(values.get("TRES", "")).get("cpu", "")),
    )


def _gpu_defaults(text: str) -> GpuDefaults:
    """Read JobDefaults: `DefCpuPerGPU=2,DefMemPerGPU=300`."""
    defaults = parse_tres(text)
    return GpuDefaults(_limit(defaults.get("DefCpuPerGPU", "")), _limit(defaults.get("DefMemPerGPU", "")))


def _parse_records(text: str, first_key: str, parse: Callable[[Mapping[str, str]], _T]) -> list[_T]:
    """Return what `parse` makes of each line's `key=value` pairs."""
    try:
        return [parse(_pairs(line, first_key)) for line in text.splitlines() if line.strip()]
    except (KeyError, ValueError) as error:
        raise UnavailableError(f"scontrol's records with {first_key} cannot be read: {error!r}") from error


def _pairs(line: str, first_key: str) -> dict[str, str]:
    """Return the pairs of a line; where a key comes twice the first counts, because free text stands at the end."""
    pairs: dict[str, str] = {}
    for match in _PAIR.finditer(line):
        pairs.setdefault(match[1], match[2])
    if next(iter(pairs), "") != first_key:
        raise ValueError(f"{line[:60]!r} does not begin with it")
    reason = _REASON.search(line)
    return pairs | ({"Reason": reason[1]} if reason else {})


def _given(text: str) -> str:
    return "" if text in {"(null)", "n/a", "N/A"} else text


def _names(text: str) -> tuple[str, ...]:
    return () if text in {"ALL", "", "(null)"} else tuple(text.split(","))


def _limit(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _time(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
