"""Runs as messages and back. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from overspill.errors import InvalidRequestError
from overspill.request_id import RequestId
from overspill.v1 import agent_pb2 as pb
from overspill_agent.capacity import Slot, grouped
from overspill_agent.runs import Resources, Run

#: As agent.proto promises.
_MOST_SLOT_GROUPS = 256


def request_id_of(message: pb.RequestId) -> RequestId:
    return RequestId(
        slurm_cluster=message.slurm_cluster,
        slurm_job_id=message.slurm_job_id,
        array_task_id=message.array_task_id if message.HasField("array_task_id") else None,
        submit_time_s=message.submit_time_s,
        restart_count=message.restart_count,
    )


def request_id_message(request_id: RequestId) -> pb.RequestId:
    return pb.RequestId(
        slurm_cluster=request_id.slurm_cluster,
        slurm_job_id=request_id.slurm_job_id,
        array_task_id=request_id.array_task_id,
        submit_time_s=request_id.submit_time_s,
        restart_count=request_id.restart_count,
    )


def resources_of(message: pb.Resources) -> Resources:
    return Resources(cpus=message.cpus, memory_mib=message.memory_mib, gpus=message.gpus)


def resources_message(resources: Resources, gpu_type: str = "") -> pb.Resources:
    return pb.Resources(cpus=resources.cpus, memory_mib=resources.memory_mib, gpus=resources.gpus, gpu_type=gpu_type)


def slot_groups(slots: Iterable[Slot]) -> list[pb.SlotGroup]:
    """Return slots whose `usable` is what is left in them; of many kinds those with most free."""
    return [
        pb.SlotGroup(
            count=count,
            size=resources_message(slot.size, slot.gpu_type),
            free=resources_message(slot.usable, slot.gpu_type),
        )
        for count, slot in grouped(slots)[:_MOST_SLOT_GROUPS]
    ]


def state_of(run: Run) -> pb.RunState.ValueType:
    return pb.RunState.Value(f"RUN_STATE_{run.state}")


def state_change(run: Run) -> pb.AttachResponse:
    reason = run.ending.reason if run.ending else run.stop_reason or ""
    return pb.AttachResponse(state=pb.StateChange(state=state_of(run), at_ms=run.state_at_ms, reason=reason))


def ended_message(run: Run) -> pb.AttachResponse:
    """Return how an ended run ended."""
    ending = run.ending
    if ending is None:
        raise InvalidRequestError(f"run {run.run_id} has not ended")
    return pb.AttachResponse(
        ended=pb.Ended(
            outcome=pb.RunOutcome.Value(f"RUN_OUTCOME_{ending.outcome}"),
            exit_code=ending.exit_code,
            signal=ending.signal,
            reason=ending.reason,
            usage=pb.Usage(
                user_cpu_ms=ending.user_cpu_ms, system_cpu_ms=ending.system_cpu_ms, max_rss_kib=ending.max_rss_kib
            ),
            started_at_ms=run.started_at_ms or 0,
            ended_at_ms=run.ended_at_ms or 0,
            output=pb.OutputOffsets(stdout=ending.stdout_bytes, stderr=ending.stderr_bytes),
        )
    )
