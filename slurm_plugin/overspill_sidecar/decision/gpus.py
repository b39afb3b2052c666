"""How many GPUs a submission asks for, and of which type: the one generic resource that sites have. Pure.

Source: sbatch(1), --gpus and --gres; what sbatch 22.05 sends is `gres:gpu:2`, `gpu:2`, `gres:gpu` or `gres:gpu:a100:2`.
"""

from __future__ import annotations

import re

from overspill.v1.router_pb2 import DecideRequest

_GPUS = re.compile(r"(?:gres[:/])?gpu(?::(?P<type>[A-Za-z][\w.-]*))?(?:[:=](?P<count>\d{1,6}))?", re.ASCII)
_PER_GPU = re.compile(r"(?:gres[:/])?gpu[:=](\d{1,12})", re.ASCII)


def is_readable(job: DecideRequest) -> bool:
    """Tell whether all that the job asks for beyond CPUs and memory is a number of GPUs of one type, said in one way.

    An older shim does not say of what (job, node, task) a request is.
    """
    if not (job.tres or job.tres_scopes or job.cpus_per_tres or job.mem_per_tres):
        return True
    return (
        len(job.tres) == len(job.tres_scopes) <= 1
        and all(_GPUS.fullmatch(request) for request in job.tres)
        and all(scope in {"job", "node", "task"} for scope in job.tres_scopes)
        and all(_PER_GPU.fullmatch(text) for text in (job.cpus_per_tres, job.mem_per_tres) if text)
    )


def gpu_count(job: DecideRequest, nodes: int, tasks: int) -> int:
    """Return the GPUs of the whole job, whose request `is_readable`."""
    times = {"job": 1, "node": nodes, "task": tasks}
    return sum(
        int(match["count"] or 1) * times[scope]
        for request, scope in zip(job.tres, job.tres_scopes, strict=True)
        if (match := _GPUS.fullmatch(request))
    )


def gpu_type(job: DecideRequest) -> str:
    """Return the type that the job's GPUs must have, in lower case; empty if it asks for none, or for any."""
    matches = [match for request in job.tres if (match := _GPUS.fullmatch(request))]
    return next(((match["type"] or "").lower() for match in matches), "")


def per_gpu(text: str) -> int:
    """Return the amount in `--cpus-per-gpu` or `--mem-per-gpu` (MiB); 0 where none is asked for."""
    match = _PER_GPU.fullmatch(text) if text else None
    return int(match[1]) if match else 0
