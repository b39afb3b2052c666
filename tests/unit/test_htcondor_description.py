"""The job that a launch becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overspill.errors import InvalidRequestError, UnrunnableError
from overspill_agent.backends.base import Account, Demand, Image, Launch
from overspill_agent.backends.htcondor.description import describe, gpu_requirement, machine_requirements, machine_size
from overspill_agent.backends.htcondor.site import HtcondorSite, Limits, Meaning
from overspill_agent.runs import Resources

SITE = HtcondorSite(
    collector="cm",
    schedd="ap@ap",
    token_directory=Path("/etc/overspill/tokens.d"),
    name="agent-a",
    staging=Path("/var/lib/overspill-agent/htcondor"),
    universe="docker",
    python=Path("/usr/bin/python3"),
    runner=Path("/runner.py"),
    requirements='Site == "a"',
    features={"intel": Meaning('CpuVendor == "intel"', "Mips")},
    limits=Limits(job_lease_s=240, overrun_s=600),
)
IMAGE = Image("base", "overspill/runtime-base:1", "/usr/bin/python3.13")
LAUNCH = Launch(
    run_id="0123abcd",
    attempt=3,
    account=Account("alice", 2001, 2001, (2001,), "/home/alice"),
    demand=Demand(Resources(cpus=4, memory_mib=2048)),
    name="rig/17.0",
    time_limit_s=3600,
    script_directory="/var/spool/slurmd/job00017",
    directories=("/home/alice/project",),
    agent_url="https://agent.site:7444",
    token="s3cr3t",
    ca_pem=b"PEM",
)
DIRECTORY = Path("/var/lib/overspill-agent/htcondor/x")


def described(launch: Launch = LAUNCH, site: HtcondorSite = SITE) -> dict[str, str]:
    return describe(launch, site, DIRECTORY)


def test_a_job_is_the_runner_with_its_files_and_as_its_account() -> None:
    job = described()
    assert (job["universe"], job["executable"], job["transfer_executable"]) == ("vanilla", "/usr/bin/python3", "false")
    assert job["arguments"] == (
        "-I -S runner.py --url https://agent.site:7444 --run 0123abcd --attempt 3 --token-file token --ca-file ca.pem"
    )
    assert (job["initialdir"], job["transfer_input_files"]) == (str(DIRECTORY), "runner.py, token, ca.pem")
    assert job["+Owner"] == '"alice"'
    assert (job["+OverspillAgent"], job["+OverspillRun"], job["+OverspillAttempt"]) == ('"agent-a"', '"0123abcd"', "3")


def test_no_secret_is_in_the_ad() -> None:
    assert not any("s3cr3t" in value or "PEM" in value for value in described().values())


def test_a_job_asks_for_what_the_run_asked_for() -> None:
    job = described()
    assert (job["request_cpus"], job["request_memory"], job["request_disk"]) == ("4", "2048MB", "1024MB")
    assert "request_gpus" not in job
    nothing = described(replace(LAUNCH, demand=Demand(Resources())))
    assert nothing["request_cpus"] == "1"
    assert "request_memory" not in nothing


def test_gpus_are_asked_for_by_number_and_by_type() -> None:
    job = described(replace(LAUNCH, demand=Demand(Resources(1, 100, 2), gpu_type="a100")))
    assert job["request_gpus"] == "2"
    assert job["require_gpus"] == 'regexp("a100", DeviceName, "i")'
    assert "require_gpus" not in described(replace(LAUNCH, demand=Demand(Resources(1, 100, 2))))


def test_a_site_can_say_what_a_type_of_gpus_is() -> None:
    site = replace(SITE, gpu_types={"big": "GlobalMemoryMb > 40000"})
    assert gpu_requirement("big", site) == "GlobalMemoryMb > 40000"
    with pytest.raises(UnrunnableError):
        gpu_requirement('"|| true', site)


@pytest.mark.parametrize(
    ("universe", "key", "reference", "engine"),
    [
        ("docker", "docker_image", "overspill/runtime-base:1", "HasDocker"),
        ("container", "container_image", "docker://overspill/runtime-base:1", "HasContainer"),
    ],
)
def test_a_run_with_an_image_is_in_the_sites_universe_for_them(
    universe: str, key: str, reference: str, engine: str
) -> None:
    job = described(replace(LAUNCH, demand=Demand(Resources(1), image=IMAGE)), replace(SITE, universe=universe))
    assert (job["universe"], job[key], job["executable"]) == (universe, reference, "/usr/bin/python3.13")
    assert f"{engine} =?= true" in job["requirements"]


def test_where_machines_tell_their_images_a_run_goes_only_where_its_own_is() -> None:
    demand = Demand(Resources(1), image=IMAGE)
    wanted = machine_requirements(demand, replace(SITE, images_attribute="OverspillImages"))
    assert wanted.endswith('(stringListMember("overspill/runtime-base:1", OverspillImages ?: ""))')
    assert "OverspillImages" not in machine_requirements(demand, SITE)


def test_a_job_is_matched_only_as_long_as_no_shadow_was_started_for_it() -> None:
    assert described()["requirements"] == '(NumShadowStarts ?: 0) == 0 && (Site == "a")'
    assert described()["max_retries"] == "0"


def test_a_constraint_adds_requirements_and_rank() -> None:
    launch = replace(LAUNCH, demand=Demand(Resources(1), constraint="intel"))
    job = described(launch, replace(SITE, rank="Memory"))
    assert job["requirements"].endswith('(Site == "a") && ((CpuVendor == "intel"))')
    assert job["rank"] == "(Memory) + (Mips)"
    assert "rank" not in described()


def test_a_constraint_without_a_meaning_is_refused() -> None:
    with pytest.raises(UnrunnableError, match="amd"):
        described(replace(LAUNCH, demand=Demand(Resources(1), constraint="amd")))


def test_limits_are_the_runners_and_htcondors_only_long_after() -> None:
    job = described()
    assert job["allowed_execute_duration"] == "4200"
    assert job["job_lease_duration"] == "240"
    assert "allowed_execute_duration" not in described(replace(LAUNCH, time_limit_s=0))


def test_the_sites_own_commands_come_last() -> None:
    site = replace(SITE, commands={"docker_network_type": "host", "request_disk": "1GB"})
    assert described(site=site)["docker_network_type"] == "host"
    assert described(site=site)["request_disk"] == "1GB"


def test_a_quote_in_an_accounts_name_stays_in_it() -> None:
    launch = replace(LAUNCH, account=replace(LAUNCH.account, name='a"b\\c'))
    assert described(launch)["+Owner"] == r'"a\"b\\c"'


def test_an_address_that_cannot_be_an_argument_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="runner_channel"):
        described(replace(LAUNCH, agent_url='https://a "b":1'))


def test_a_demand_without_wishes_is_met_by_any_machine_that_is_large_enough() -> None:
    demand = Demand(Resources(2, 512, 1))
    assert machine_requirements(demand, replace(SITE, requirements="true")) == "true"
    expected = "TotalSlotCpus >= 2 && TotalSlotMemory >= 512 && (TotalSlotGPUs ?: TotalGPUs ?: 0) >= 1"
    assert machine_size(demand) == expected
