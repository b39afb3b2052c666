"""`overspill decide`: what would become of a job now."""

from __future__ import annotations

import json
import os
import pwd
import re
from pathlib import Path
from typing import Any

import click
import grpc

from overspill.cli.output import json_option, print_json, print_line, whole_duration
from overspill.errors import UnavailableError, from_rpc_error
from overspill.v1 import router_pb2
from overspill.v1.router_pb2_grpc import RouterStub
from overspill_sidecar.commands.daemons import check_socket
from overspill_sidecar.commands.parsed import Parsed
from overspill_sidecar.config import RouterConfig, configured_path, load
from overspill_sidecar.records.reasons import sentence
from overspill_sidecar.slurm_text import parse_duration_s, parse_size_mib

_DECIDE_DEADLINE_S = 2.0
#: What a field of the request holds.
_NUMBER = click.IntRange(0, 2**32 - 3)


def _gpus(text: str) -> str:
    if text and not re.fullmatch(r"(?:[A-Za-z][\w.-]*:)?[1-9]\d*", text, re.ASCII):
        raise ValueError("write a number of GPUs, or TYPE:NUMBER")
    return text


def _user_id(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError(f"this host knows no user {text}") from None


_TIME = Parsed("time", parse_duration_s)
_SIZE = Parsed("size", lambda text: parse_size_mib(text.upper()))
_GPUS = Parsed("gpus", _gpus)
_USER = Parsed("user", _user_id)


@click.command(short_help="What would become of a job now.")
@click.option("--partition", default="", help="Partition list; the default partition if none is given.")
@click.option("--ntasks", type=_NUMBER, default=1, show_default=True)
@click.option("--cpus-per-task", type=_NUMBER, default=0, help="As for sbatch; unset if 0.")
@click.option("--nodes", type=_NUMBER, default=1, show_default=True)
@click.option("--time", "time_limit_s", type=_TIME, default=0, help="Time limit as for sbatch.")
@click.option("--mem", "memory_mib", type=_SIZE, default=0, help="Memory per node as for sbatch.")
@click.option("--array", default="", help="Array as for sbatch.")
@click.option("--account", default="", help="As for sbatch.")
@click.option("--qos", default="", help="As for sbatch.")
@click.option("--constraint", "features", default="", help="Features as for sbatch.")
@click.option("--gpus", type=_GPUS, default="", help="[TYPE:]NUMBER as for sbatch.")
@click.option("--overspill-image", "image", default="", help="An image that a site offers.")
@click.option("--user", "user_id", type=_USER, default=os.getuid, help="Whose job it is; yours if nobody is named.")
@click.option("--overspill", "option", default="auto", help="auto, never, always or a site.", show_default=True)
@json_option
def decide(*, as_json: bool, **options: Any) -> None:
    """Ask the running router what would become of a job now. Nothing is submitted or promised.

    \b
    Examples:
      overspill decide
      overspill decide --partition long --ntasks 16 --time 1-0 --mem 32G --json
      overspill decide --user alice --account physics --gpus 2
    """
    response = ask(_router_socket(), request_of(**options))
    answer = as_dict(response)
    if as_json:
        print_json(answer)
    else:
        for line in _in_words(response, str(answer["verdict"])).splitlines():
            print_line(line)


def request_of(
    *,
    option: str,
    ntasks: int,
    nodes: int,
    time_limit_s: int,
    memory_mib: int,
    gpus: str,
    **job: Any,
) -> router_pb2.DecideRequest:
    """Return the question about a job of the command's options."""
    return router_pb2.DecideRequest(
        has_script=True,
        is_dry_run=True,
        num_tasks=ntasks,
        min_nodes=nodes,
        time_limit_min=-(-time_limit_s // 60),
        memory_per_node_mib=memory_mib,
        overspill_option=option,
        tres=[f"gpu:{gpus}"] if gpus else [],
        tres_scopes=["job"] if gpus else [],
        **job,
    )


def _in_words(response: router_pb2.DecideResponse, verdict: str) -> str:
    target = f" to {response.partition}" if response.partition else ""
    answer = f"{verdict}{target}: {sentence(response.reason)} ({response.reason})"
    if not response.HasField("predicted_wait_s"):
        return answer
    bound = "at most " if response.is_wait_upper_bound else ""
    return f"{answer}\nIt would wait {bound}{whole_duration(response.predicted_wait_s)} here."


def _router_socket() -> Path:
    """Return where the router listens; without a configuration file, where it listens by default."""
    path = configured_path()
    return load(path).router.socket if path.exists() else RouterConfig().socket


def ask(socket: Path, request: router_pb2.DecideRequest) -> router_pb2.DecideResponse:
    """Ask the router on `socket`.

    Raises:
        UnavailableError: if none answers.
    """
    check_socket("router", socket)
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            return RouterStub(channel).Decide(request, timeout=_DECIDE_DEADLINE_S)
        except grpc.RpcError as error:
            reason = from_rpc_error(error).reason
            raise UnavailableError(f"no router answers on {socket}: {reason}: is it running?") from error


def as_dict(response: router_pb2.DecideResponse) -> dict[str, object]:
    """Return the answer as `--json` prints it."""
    answer: dict[str, object] = {
        "verdict": router_pb2.DecideResponse.Verdict.Name(response.verdict).removeprefix("VERDICT_"),
        "reason": response.reason,
        "partition": response.partition,
        "predicted_wait_s": response.predicted_wait_s if response.HasField("predicted_wait_s") else None,
        "is_wait_upper_bound": response.is_wait_upper_bound,
        "time_limit_min": response.time_limit_min,
        "memory_per_cpu_mib": response.memory_per_cpu_mib,
        "memory_per_node_mib": response.memory_per_node_mib,
        "memory_per_gpu_mib": response.memory_per_gpu_mib,
        "cpus_per_gpu": response.cpus_per_gpu,
        "user_message": response.user_message,
        "admin_comment": json.loads(response.admin_comment) if response.admin_comment else None,
    }
    return answer
