"""The packages on fresh machines: everything here uses what is installed there, and nothing of the checkout.

The tests are the story of one installation, in this order: it is set up as docs/howto-admin.md says, used, upgraded
while a job runs, and removed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tests.packaging.machines import DOWNLOADS, Machines
from tests.rig.demo import Demo
from tests.rig.host import Host
from tests.rig.waiting import poll

#: The first to need them makes a Debian and builds all packages, pyslurm among them.
pytestmark = pytest.mark.timeout(1800)

_SERVICES = {"cluster": ("overspill-router", "overspill-relay", "overspill-slurmd@ovs1"), "site": ("overspill-agent",)}
_APT_TIMEOUT_S = 180.0
_COUNTS_UNTIL_USR1 = """\
#!/bin/bash
trap 'echo end; exit 0' USR1
while :; do echo $((i += 1)); sleep 0.2; done
"""
#: What a removed package may leave: what apt and the admin have put there themselves.
_NOT_OURS = (
    f"{DOWNLOADS}/",
    "/var/cache/apt/",
    "/home/",
    "/run/systemctl/",
    "/etc/systemd/system/overspill-agent.service.d",
)


def test_the_how_to_leads_to_a_diverted_job(installed: Machines) -> None:
    """All of its commands were executed and printed what the page says; see the fixture."""
    assert installed.output(1).decode() == "I am alice on site\n"


def test_every_promise_of_the_demo_is_kept(installed: Machines) -> None:
    installed.set_word("overspill_wait", "00:00:30")
    jobs = Demo(installed, Console(), real_nodes=1, site="site").run()
    assert [(job.promise.name, job.broken) for job in jobs if job.broken] == []


def test_commands_have_manuals_and_completions(installed: Machines) -> None:
    on_cluster = ("overspill.1", "overspill-sidecar.8", "overspill-sidecar.toml.5", "overspill-policy.7")
    for page in on_cluster:
        assert installed.cluster.path(f"/usr/share/man/man{page[-1]}/{page}.gz").exists()
    assert installed.cluster.path("/usr/share/bash-completion/completions/overspill").exists()


def test_a_shared_directory_needs_a_word_to_systemd(installed: Machines) -> None:
    """Else runs could not write there: the log says what to do, and that is enough."""
    site = installed.site
    before = site.path("/etc/overspill/agent.toml").read_text()
    site.write("/etc/overspill/agent.toml", before.replace("[local]\n", '[local]\nshared = ["/srv"]\n'))
    site.run(["systemctl", "restart", "overspill-agent"], timeout=60.0, check=True)
    log = site.path("/run/systemctl/overspill-agent.log")
    assert poll(lambda: "shared_directory_read_only" in log.read_text(), timeout_s=30)
    site.run(["mkdir", "/etc/systemd/system/overspill-agent.service.d"], check=True)
    site.write("/etc/systemd/system/overspill-agent.service.d/override.conf", "[Service]\nReadWritePaths=/srv\n")
    log.unlink()
    site.run(["systemctl", "restart", "overspill-agent"], timeout=60.0, check=True)
    assert "agent_started" in log.read_text()
    assert "shared_directory_read_only" not in log.read_text()


def test_an_upgrade_restarts_every_service_and_no_job(installed: Machines) -> None:
    job_id = installed.sbatch(_COUNTS_UNTIL_USR1, "--overspill=always")
    assert poll(lambda: b"5\n" in installed.output(job_id), timeout_s=60, interval_s=0.2)
    before = _pids(installed)
    for host in (installed.cluster, installed.site):
        # The packages' scripts ask for this directory, as everybody does who wants to know whether systemd runs.
        host.run(["mkdir", "-p", "/run/systemd/system"], check=True)
        files = [f"{DOWNLOADS}/{path.name}" for name in _installed_packages(host) for path in _files(host, name)]
        _apt(host, "install", "--reinstall", *files)
    installed.cluster.run(["scancel", "--batch", "--signal=USR1", str(job_id)], user="alice", check=True)
    ended = installed.wait_for_state(job_id, "COMPLETED", timeout_s=120)
    assert ended["Restarts"] == "0"
    lines = installed.output(job_id).decode().splitlines()
    assert lines == [*map(str, range(1, len(lines))), "end"]
    restarted = [name for name, pid in _pids(installed).items() if pid != before[name]]
    assert sorted(restarted) == ["overspill-agent", "overspill-relay", "overspill-router"]


def test_a_purge_leaves_nothing_and_slurm_goes_on(installed: Machines) -> None:
    for host in (installed.site, installed.cluster):
        _apt(host, "purge", *_installed_packages(host))
        assert _leftovers(host) == []
        assert not [name for name in _SERVICES[host.name] if _pid(host, name)]
    script = "#!/bin/bash\nuname -n\n"
    job_id = installed.sbatch(script, "--partition=batch")
    installed.wait_for_state(job_id, "COMPLETED", timeout_s=60)
    assert installed.output(job_id) == b"cluster\n"


def _pids(machines: Machines) -> dict[str, int | None]:
    hosts = {"cluster": machines.cluster, "site": machines.site}
    return {service: _pid(hosts[name], service) for name, services in _SERVICES.items() for service in services}


def _pid(host: Host, service: str) -> int | None:
    """Return the service's main process as seen from outside, None if it does not run."""
    pid_file = host.path(f"/run/systemctl/{service}.pid")
    return host.processes().get(int(pid_file.read_text())) if pid_file.exists() else None


def _apt(host: Host, *arguments: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    host.run(["apt-get", "--yes", *arguments], env=environment, timeout=_APT_TIMEOUT_S, check=True)


def _installed_packages(host: Host) -> list[str]:
    query = ["dpkg-query", "--show", "--showformat=${Package} ", "*overspill*"]
    return host.run(query, check=True).stdout.split()


def _files(host: Host, package: str) -> list[Path]:
    return sorted(host.path(DOWNLOADS).glob(f"{package}_*.deb"))


def _leftovers(host: Host) -> list[str]:
    found = host.run(["find", "/", "-xdev", "-iname", "*overspill*"], timeout=60.0, check=True).stdout.splitlines()
    return [path for path in found if not path.startswith(_NOT_OURS)]
