"""The command line: `overspill-sidecar`."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import click
import grpc

from overspill import __version__
from overspill.daemon import LOG_LEVELS, set_up_logs
from overspill.errors import OverspillError, from_rpc_error
from overspill.v1 import router_pb2
from overspill.v1.router_pb2_grpc import RouterStub
from overspill_sidecar.app import Role, Sidecar
from overspill_sidecar.config import RouterConfig, SidecarConfig, load
from overspill_sidecar.policy import parse_policy, unknown_partitions
from overspill_sidecar.slurm import CommandLineView
from overspill_sidecar.slurm_text import parse_duration_s, parse_size_mib

_DECIDE_DEADLINE_S = 2.0
_config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/overspill/sidecar.toml"),
    show_default=True,
    help="The sidecar's configuration.",
)


class _Duration(click.ParamType[int]):
    name = "time"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size_mib(value.upper())
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="overspill-sidecar")
def main() -> None:
    """Decide where Slurm's jobs run, and carry those that run elsewhere.

    \b
    Examples:
      overspill-sidecar check-config
      overspill-sidecar run --config /etc/overspill/sidecar.toml
      overspill-sidecar decide --ntasks 4 --time 2:00:00
    """


@main.command()
@_config_option
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.ALL.value,
    show_default=True,
    help="What to serve.",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
def run(path: Path, role: str, log_level: str) -> None:
    """Serve until SIGTERM. Runs as SlurmUser, because it moves jobs.

    \b
    Examples:
      overspill-sidecar run                     router and relay in one process
      overspill-sidecar run --role router       beside slurmctld
      overspill-sidecar run --role relay        beside the virtual nodes
    """
    set_up_logs(log_level)
    try:
        asyncio.run(_serve(load(path), Role(role)))
    except OverspillError as error:
        raise click.ClickException(error.reason) from error


async def _serve(config: SidecarConfig, role: Role) -> None:
    await Sidecar(config, role).run()


@main.command("check-config")
@_config_option
def check_config(path: Path) -> None:
    """Check the configuration file, the certificates it names, and the policy words in slurm.conf.

    \b
    Example:
      overspill-sidecar check-config && systemctl restart overspill-sidecar
    """
    try:
        config = load(path)
        for site in config.sites:
            site.tls_files.read()
        click.echo(f"{path}: {len(config.sites)} sites: {', '.join(site.name for site in config.sites)}")
        snapshot = asyncio.run(CommandLineView(config.slurm.command_deadline_s).snapshot())
    except OverspillError as error:
        raise click.ClickException(error.reason) from error
    policy, problems = parse_policy(snapshot.config.parameters)
    problems += unknown_partitions(policy, snapshot.partitions)
    unknown = [site.partition for site in config.sites if site.partition not in snapshot.partitions]
    click.echo(f"slurm.conf of {snapshot.config.cluster_name}: mode {policy.mode}, from {policy.from_partitions}")
    for complaint in (*problems, *(f"partition {name}: slurmctld does not know it" for name in unknown)):
        click.echo(f"  {complaint}", err=True)
    if problems or unknown:
        raise click.ClickException("see above")


@main.command()
@_config_option
@click.option("--partition", default="", help="Partition list; the default partition if none is given.")
@click.option("--ntasks", default=1, show_default=True)
@click.option("--cpus-per-task", default=1, show_default=True)
@click.option("--nodes", default=1, show_default=True)
@click.option("--time", "time_limit_s", type=_Duration(), default=0, help="Time limit as for sbatch.")
@click.option("--mem", "memory_mib", type=_Size(), default=0, help="Memory per node as for sbatch.")
@click.option("--array", default="", help="Array as for sbatch.")
@click.option("--account", default="")
@click.option("--qos", default="")
@click.option("--overspill", "option", type=click.Choice(["auto", "never", "always"]), default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
def decide(
    path: Path,
    *,
    option: str,
    ntasks: int,
    nodes: int,
    time_limit_s: int,
    memory_mib: int,
    as_json: bool,
    **job: object,
) -> None:
    """Ask the running router what would become of a job now. Nothing is submitted or promised.

    \b
    Examples:
      overspill-sidecar decide
      overspill-sidecar decide --partition long --ntasks 16 --time 1-0 --mem 32G --json
    """
    request = router_pb2.DecideRequest(
        user_id=os.getuid(),
        has_script=True,
        is_dry_run=True,
        num_tasks=ntasks,
        min_nodes=nodes,
        time_limit_min=-(-time_limit_s // 60),
        memory_per_node_mib=memory_mib,
        overspill_option=option,
        **job,  # type: ignore[arg-type]  # click has checked them
    )
    response = _ask(_router_socket(path), request)
    answer = _as_dict(response)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(_in_words(response, str(answer["verdict"])))


def _in_words(response: router_pb2.DecideResponse, verdict: str) -> str:
    target = f" -> {response.partition}" if response.partition else ""
    if not response.HasField("predicted_wait_s"):
        return f"{verdict}: {response.reason}{target}; nobody can tell the wait"
    bound = "at most " if response.is_wait_upper_bound else ""
    return f"{verdict}: {response.reason}{target}; it would wait {bound}{response.predicted_wait_s} s here"


def _router_socket(path: Path) -> Path:
    """Return where the router listens; without a configuration file, where it listens by default."""
    if not path.exists():
        return RouterConfig().socket
    try:
        return load(path).router.socket
    except OverspillError as error:
        raise click.ClickException(error.reason) from error


def _ask(socket: Path, request: router_pb2.DecideRequest) -> router_pb2.DecideResponse:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            return RouterStub(channel).Decide(request, timeout=_DECIDE_DEADLINE_S)
        except grpc.RpcError as error:
            reason = from_rpc_error(error).reason
            raise click.ClickException(f"no router answers on {socket}: {reason}: is it running?") from error


def _as_dict(response: router_pb2.DecideResponse) -> dict[str, object]:
    answer: dict[str, object] = {
        "verdict": router_pb2.DecideResponse.Verdict.Name(response.verdict).removeprefix("VERDICT_"),
        "reason": response.reason,
        "partition": response.partition,
        "predicted_wait_s": response.predicted_wait_s if response.HasField("predicted_wait_s") else None,
        "is_wait_upper_bound": response.is_wait_upper_bound,
        "time_limit_min": response.time_limit_min,
        "memory_per_cpu_mib": response.memory_per_cpu_mib,
        "memory_per_node_mib": response.memory_per_node_mib,
        "user_message": response.user_message,
        "admin_comment": json.loads(response.admin_comment) if response.admin_comment else None,
    }
    return answer
