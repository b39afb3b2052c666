"""The job that one launch becomes, and what a machine must have for it. Pure.

Nothing secret is in a job's ad, which others at the pool may read: token and CA are spooled files.
"""

from __future__ import annotations

import re
from pathlib import Path

from overspill.errors import InvalidRequestError, UnrunnableError
from overspill_agent.backends.base import Demand, Launch
from overspill_agent.backends.htcondor import features
from overspill_agent.backends.htcondor.ads import AGENT, ATTEMPT, FORGOTTEN, RUN
from overspill_agent.backends.htcondor.site import HtcondorSite

#: Files of a job, in its scratch directory.
RUNNER, TOKEN, CA = "runner.py", "token", "ca.pem"
#: A shadow is started before anything can run, and each start is counted at once; NumJobStarts comes minutes later.
_ONCE = "(NumShadowStarts ?: 0) == 0"
#: Jobs stay at the schedd until the agent has taken note of their end, at most as long as HTCondor keeps spooled ones.
_LEAVE = f"{FORGOTTEN} =!= true && (JobStatus == 3 || JobStatus == 4) && time() - EnteredCurrentStatus < 864000"
_GPU_TYPE = re.compile(r"[a-z0-9_.-]+")
_PLAIN = re.compile(r"[^\s\"']+")


def describe(launch: Launch, site: HtcondorSite, directory: Path) -> dict[str, str]:
    """Return the submit description; `directory` holds the job's files.

    Raises:
        UnrunnableError: the site has no machines for it.
        InvalidRequestError: a path or address cannot be an argument.
    """
    demand, limits = launch.demand, site.limits
    described = {
        **_universe(demand, site),
        "transfer_executable": "false",
        "arguments": _arguments(launch),
        "initialdir": str(directory),
        "should_transfer_files": "YES",
        "when_to_transfer_output": "ON_EXIT",
        "transfer_input_files": f"{RUNNER}, {TOKEN}, {CA}",
        "transfer_output_files": '""',
        "error": "runner.log",
        "batch_name": launch.name,
        **_requests(demand, site),
        "requirements": f"{_ONCE} && {machine_requirements(demand, site)}",
        "leave_in_queue": _LEAVE,
        "job_lease_duration": str(limits.job_lease_s),
        # Whoever ends the job over HTCondor has it killed after a second in which the runner hears nothing: told to end
        # it could still report an end that looks like the script's own, and Slurm would not start the job again. Nor
        # is it killed first: HTCondor finds the script's processes by their parents, of which the runner is the last.
        **dict.fromkeys(("kill_sig", "remove_kill_sig", "hold_kill_sig"), "SIGURG"),
        "job_max_vacate_time": "1",
        "notification": "never",
        "max_retries": "0",
        "+Owner": quoted(launch.account.name),
        f"+{AGENT}": quoted(site.name),
        f"+{RUN}": quoted(launch.run_id),
        f"+{ATTEMPT}": str(launch.attempt),
    }
    if launch.time_limit_s:
        described["allowed_execute_duration"] = str(launch.time_limit_s + limits.overrun_s)
    ranks = [expression for expression in (site.rank, *features.rank(demand.constraint, site.features)) if expression]
    if ranks:
        described["rank"] = " + ".join(f"({expression})" for expression in ranks)
    return {**described, **site.commands}


def machine_requirements(demand: Demand, site: HtcondorSite) -> str:
    """Return what a machine must be like, beyond its size.

    Raises:
        UnrunnableError: --constraint names a feature that no machine has.
    """
    wanted = [site.requirements, features.requirements(demand.constraint, site.features, site.image_words)]
    if demand.image is not None:
        wanted.append("HasDocker =?= true" if site.universe == "docker" else "HasContainer =?= true")
        if site.images_attribute:
            wanted.append(f'stringListMember({quoted(demand.image.reference)}, {site.images_attribute} ?: "")')
    return " && ".join(f"({expression})" for expression in wanted if expression != "true") or "true"


def machine_size(demand: Demand) -> str:
    """Return the expression that whole machines satisfy which are large enough, in use or not."""
    wanted = demand.resources
    sizes = [f"TotalSlotCpus >= {wanted.cpus}", f"TotalSlotMemory >= {wanted.memory_mib}"]
    if wanted.gpus:
        sizes.append(f"(TotalSlotGPUs ?: TotalGPUs ?: 0) >= {wanted.gpus}")
    return " && ".join(sizes)


def quoted(value: str) -> str:
    """Return a ClassAd string literal."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _universe(demand: Demand, site: HtcondorSite) -> dict[str, str]:
    if demand.image is None:
        return {"universe": "vanilla", "executable": str(site.python)}
    if site.universe == "docker":
        image = {"universe": "docker", "docker_image": demand.image.reference}
    else:
        image = {"universe": "container", "container_image": f"docker://{demand.image.reference}"}
    return {**image, "executable": demand.image.python}


def _arguments(launch: Launch) -> str:
    arguments = ["-I", "-S", RUNNER, "--url", launch.agent_url, "--run", launch.run_id]
    arguments += ["--attempt", str(launch.attempt), "--token-file", TOKEN, "--ca-file", CA]
    for argument in arguments:
        if not _PLAIN.fullmatch(argument):
            raise InvalidRequestError(f"{argument!r} cannot be an argument of a job; correct [runner_channel] url")
    return " ".join(arguments)


def _requests(demand: Demand, site: HtcondorSite) -> dict[str, str]:
    wanted = demand.resources
    requests = {"request_cpus": str(max(1, wanted.cpus)), "request_disk": f"{site.disk_mib}MB"}
    if wanted.memory_mib:
        requests["request_memory"] = f"{wanted.memory_mib}MB"
    if wanted.gpus:
        requests["request_gpus"] = str(wanted.gpus)
        if demand.gpu_type:
            requests["require_gpus"] = gpu_requirement(demand.gpu_type, site)
    return requests


def gpu_requirement(gpu_type: str, site: HtcondorSite) -> str:
    """Return the expression that a GPU of the type satisfies.

    Raises:
        UnrunnableError: no GPU can be of a type of such a name.
    """
    if gpu_type in site.gpu_types:
        return site.gpu_types[gpu_type]
    if not _GPU_TYPE.fullmatch(gpu_type):
        raise UnrunnableError(f"this site has no GPUs of type {gpu_type!r}")
    return f'regexp("{re.escape(gpu_type)}", DeviceName, "i")'
