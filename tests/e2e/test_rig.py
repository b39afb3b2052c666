"""The rig keeps its promises: a real Slurm, two hosts that share nothing, and nothing left afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.diversion import wait_until_diverting
from tests.rig import AlreadyUpError, ClusterOptions, CommandError, JobStateError, Part, Rig, RigError
from tests.rig.directory import is_alive, main_path, remove_leftovers
from tests.rig.host import Host
from tests.rig.parts import CHECKOUT
from tests.rig.releases import RELEASES
from tests.rig.waiting import poll

_CONNECT = "import socket; socket.create_connection(('site', 9), timeout=1)"
_BRING_UP_AND_WAIT = """
import signal
from tests.rig import Part, Rig
print(Rig.up(without=list(Part)).path, flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def plain() -> Iterator[Rig]:
    """Slurm and an empty site, without any part of Overspill."""
    with Rig.up(without=list(Part)) as running:
        yield running


def _namespaces() -> set[str]:
    """Return the names of the PID and network namespaces of all processes that can be looked into."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                found |= {str((process / "ns" / kind).readlink()) for kind in ("pid", "net")}
    return found


@contextmanager
def _held_namespaces(rig: Rig) -> Iterator[set[str]]:
    """Return the names of a rig's PID and network namespaces, and keep other rigs' from getting the same names."""
    with ExitStack() as stack:
        links = [
            Path(f"/proc/{host.init_pid}/ns") / kind for host in (rig.cluster, rig.site) for kind in ("pid", "net")
        ]
        for link in links:
            stack.enter_context(link.open("rb"))
        yield {str(link.readlink()) for link in links}


def _this_machine() -> dict[str, str]:
    """Return what a rig could have changed on the machine itself; other rigs may come and go meanwhile."""
    commands = ["ip -brief link", "ip netns list", "ls -lR /etc/slurm /etc/munge /home /opt"]
    shown = {line: subprocess.run(line.split(), capture_output=True, check=True, text=True).stdout for line in commands}
    files = {
        name: Path(name).read_text() for name in ("/etc/passwd", "/etc/group", "/etc/hosts", "/proc/self/mountinfo")
    }
    shared_directories = [Path(name) for name in ("/", "/run", "/var/spool", "/var/log", "/var/lib")]
    listings = {str(shared): " ".join(sorted(path.name for path in shared.iterdir())) for shared in shared_directories}
    return shown | files | listings


def _how_connecting_ends(host: Host) -> str:
    """Connect to a port of the site where nobody listens; return the name of the exception."""
    result = host.run(["/usr/bin/python3", "-c", _CONNECT])
    return result.stderr.splitlines()[-1].partition(":")[0]


def _have_slurmctld_save_its_jobs(rig: Rig, job_id: int) -> None:
    """It writes its state some seconds after a change; a SIGKILL before that loses the newest jobs, on any Slurm.

    Whether it has done so since the last change cannot be seen: so there is another.
    """
    now = time.time()
    rig.cluster.run(["scontrol", "update", f"JobId={job_id}", "Comment=saved"], check=True)
    state = rig.cluster.path("/var/lib/slurm/slurmctld/job_state")
    assert poll(lambda: state.exists() and state.stat().st_mtime > now, timeout_s=30)


def test_a_batch_job_runs_as_its_user_and_its_output_is_there(plain: Rig) -> None:
    job_id = plain.sbatch('#!/bin/bash\nid -un; id -Gn; pwd; printf "[%s]" "$@"\n', arguments=("a b", "c"))
    job = plain.wait_for_state(job_id, "COMPLETED")
    assert (job["Partition"], job["UserId"]) == ("batch", "alice(2001)")
    assert plain.output(job_id) == b"alice\nalice hpc\n/home/alice\n[a b][c]"


def test_a_job_may_ask_for_a_login_environment(plain: Rig) -> None:
    job_id = plain.sbatch("#!/bin/bash\necho $HOME $HIDDEN\n", "--export=NONE", env={"HIDDEN": "1"}, user="bob")
    plain.wait_for_state(job_id, "COMPLETED")
    assert plain.output(job_id) == b"/home/bob\n"


def test_waiting_for_a_state_that_cannot_come_fails_at_once_and_tells_the_story(plain: Rig) -> None:
    job_id = plain.sbatch("#!/bin/bash\necho what it said\nexit 3\n")
    with pytest.raises(JobStateError) as raised:
        plain.wait_for_state(job_id, "COMPLETED", timeout_s=100)
    assert "it is FAILED" in str(raised.value)
    assert "what it said" in str(raised.value)
    assert "slurmctld.log" in str(raised.value)


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(plain: Rig) -> None:
    with pytest.raises(CommandError, match=r"killed after 0.5 s"):
        plain.cluster.run(["bash", "-c", "sleep 4711 & sleep 4711"], timeout=0.5)
    assert poll(lambda: plain.cluster.run(["pgrep", "-f", "sleep 4711"]).returncode == 1, timeout_s=30)


def test_the_hosts_know_each_other_by_name_and_themselves(plain: Rig) -> None:
    for host in (plain.cluster, plain.site):
        assert host.run(["hostname"], check=True).stdout == f"{host.name}\n"
        for name, address in (("cluster", "10.77.0.1"), ("site", "10.77.0.2")):
            assert host.run(["getent", "hosts", name], check=True).stdout.split() == [address, name]


def test_a_cut_is_silent_an_unplugged_cable_is_not_and_the_cluster_itself_notices_neither(plain: Rig) -> None:
    assert _how_connecting_ends(plain.cluster) == "ConnectionRefusedError"
    try:
        plain.network.cut()
        assert _how_connecting_ends(plain.cluster) == "TimeoutError"
        plain.network.heal()
        assert _how_connecting_ends(plain.cluster) == "ConnectionRefusedError"
        plain.network.unplug()
        assert _how_connecting_ends(plain.cluster) == "OSError"
        plain.wait_for_state(plain.sbatch("#!/bin/bash\n:\n"), "COMPLETED")
    finally:
        plain.network.heal()
    assert _how_connecting_ends(plain.cluster) == "ConnectionRefusedError"


def test_a_killed_slurmctld_starts_again_and_knows_its_jobs(plain: Rig) -> None:
    job_id = plain.sbatch("#!/bin/bash\nsleep 4712\n")
    plain.wait_for_state(job_id, "RUNNING")
    _have_slurmctld_save_its_jobs(plain, job_id)
    slurmctld = plain.cluster.daemon("slurmctld")
    before = slurmctld.pid
    slurmctld.signal(signal.SIGKILL)
    assert not slurmctld.is_running
    slurmctld.start()
    assert slurmctld.pid not in {None, before}
    assert plain.job(job_id)["JobState"] == "RUNNING"
    plain.cluster.run(["scancel", str(job_id)], check=True)
    plain.wait_for_state(job_id, "CANCELLED")


def test_a_daemon_held_by_sigstop_is_running_and_can_be_stopped(plain: Rig) -> None:
    slurmd = plain.cluster.daemon("slurmd@c4")
    slurmd.signal(signal.SIGSTOP)
    assert slurmd.is_running
    slurmd.stop()
    assert not slurmd.is_running
    slurmd.start()


def test_a_new_policy_is_shown_by_slurmctld(plain: Rig) -> None:
    plain.set_policy("overspill_mode=off overspill_wait=02:00:00")
    shown = plain.cluster.run(["scontrol", "show", "config"], check=True).stdout
    words = "overspill_mode=off,overspill_wait=02:00:00,overspill_from=batch,overspill_to=overspill"
    assert words in next(line for line in shown.splitlines() if line.startswith("SlurmctldParameters"))


@pytest.mark.parametrize("path", ["/home/alice", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/run", "/opt"])
def test_a_file_of_the_cluster_is_invisible_at_the_site(plain: Rig, path: str) -> None:
    plain.cluster.run(["touch", f"{path}/of-the-cluster"], check=True)
    assert plain.site.run(["ls", f"{path}/of-the-cluster"]).returncode != 0


def test_the_checkout_is_invisible_inside(plain: Rig) -> None:
    for host in (plain.cluster, plain.site):
        assert host.run(["ls", str(CHECKOUT)]).returncode != 0


def test_with_a_shared_home_the_site_sees_what_the_cluster_writes(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(shared=True, without=list(Part))
    rig.cluster.write("/home/alice/note", "from the cluster", user="alice")
    seen = rig.site.run(["cat", "/home/alice/note"], user="alice", check=True)
    assert seen.stdout == "from the cluster"
    assert rig.site.run(["ls", "/tmp/note"]).returncode != 0


def test_a_diverted_job_does_not_see_the_clusters_home(rig: Rig) -> None:
    rig.cluster.write("/home/alice/of-the-cluster", "secret", user="alice")
    look = "#!/bin/bash\nls /home/alice/of-the-cluster && exit 1\nhostname\n"
    local = rig.sbatch(look, "--overspill=never")
    diverted = rig.sbatch(look, "--overspill=always")
    rig.wait_for_state(local, "FAILED")
    rig.wait_for_state(diverted, "COMPLETED")
    assert rig.output(local) == b"/home/alice/of-the-cluster\n"
    assert rig.output(diverted).endswith(b"site\n")


def test_two_rigs_live_side_by_side(plain: Rig, new_rig: Callable[..., Rig]) -> None:
    other = new_rig(without=list(Part), cluster=ClusterOptions(real_nodes=1))
    for rig, nodes in ((plain, 5), (other, 2)):
        job_id = rig.sbatch("#!/bin/bash\nsinfo --noheader --format=%D --partition=batch,overspill\n")
        rig.wait_for_state(job_id, "COMPLETED")
        assert sum(map(int, rig.output(job_id).split())) == nodes
    other.down()
    plain.wait_for_state(plain.sbatch("#!/bin/bash\n:\n"), "COMPLETED")


def test_a_rig_changes_nothing_of_the_machine_and_leaves_nothing_when_down(new_rig: Callable[..., Rig]) -> None:
    before = _this_machine()
    rig = new_rig(without=list(Part))
    job_id = rig.sbatch("#!/bin/bash\nsetsid sleep 4713 &\nsleep 4713\n")
    rig.wait_for_state(job_id, "RUNNING")
    assert _this_machine() == before
    with _held_namespaces(rig) as inside:
        assert inside <= _namespaces()
        rig.down()
        assert _this_machine() == before
        assert not inside & _namespaces()
    assert not rig.path.exists()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in commands if str(rig.path).encode() in line]


def test_a_caller_with_a_strict_umask_gets_a_working_rig(new_rig: Callable[..., Rig]) -> None:
    before = os.umask(0o077)
    try:
        rig = new_rig(without=list(Part))
    finally:
        os.umask(before)
    rig.wait_for_state(rig.sbatch("#!/bin/bash\n:\n"), "COMPLETED")


def test_the_hosts_die_with_the_program_and_the_next_rig_removes_their_files(new_rig: Callable[..., Rig]) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", _BRING_UP_AND_WAIT], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    with program, ExitStack() as stack:
        stack.callback(program.kill)
        assert program.stdout is not None
        left = Path(program.stdout.readline().strip())
        namespaces = stack.enter_context(_held_namespaces(Rig.attach(left)))
        assert namespaces <= _namespaces()
        program.kill()
        assert poll(lambda: not is_alive(left), timeout_s=30)
        assert not namespaces & _namespaces()
    assert left.exists()
    new_rig(without=list(Part))
    assert not left.exists()


def test_a_rig_that_cannot_start_says_why_and_keeps_the_logs() -> None:
    with pytest.raises(RigError, match="NoSuchKey") as raised:
        Rig.up(without=list(Part), cluster=ClusterOptions(more_lines=("NoSuchKey=1",)))
    kept = Path(raised.value.__notes__[0].partition("left in ")[2].partition(" ")[0])
    assert (kept / "cluster/etc/slurm/slurm.conf").exists()
    assert not is_alive(kept)
    remove_leftovers()
    assert not kept.exists()


def test_the_command_line_leaves_a_rig_running_until_it_is_told_to_end_it() -> None:
    path = main_path().with_name(f"{main_path().name}.cli-{os.getpid()}")
    rig = [sys.executable, "-m", "tests.rig", "--directory", str(path)]
    everything_else = [argument for part in Part for argument in ("--without", str(part))]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*rig, *arguments], capture_output=True, text=True, cwd=CHECKOUT, check=False)

    try:
        assert call("up", *everything_else).returncode == 0
        again = call("up", *everything_else)
        assert (again.returncode, "a rig is up already" in again.stderr) == (1, True)
        with pytest.raises(AlreadyUpError):
            Rig.up(path=path)
        said = call("exec", "--as", "bob", 'echo "$(id -un) in $(pwd)"; exit 7')
        assert (said.returncode, said.stdout) == (7, "bob in /home/bob\n")
        assert call("exec", "--as", "root", "--at", "site", "--", "hostname").stdout == "site\n"
        status = call("status")
        assert (status.returncode, "slurmd@ovs1" in status.stdout) == (0, True)
    finally:
        ended = call("down")
    assert (ended.returncode, ended.stdout) == (0, "down\n")
    assert not path.exists()
    assert call("status").returncode == 1
    assert call("down").stdout == "no rig was up\n"


@pytest.mark.timeout(900)  # the first rig of a release makes a Debian for it
@pytest.mark.parametrize("release", RELEASES)
def test_a_rig_of_any_release_has_that_slurm_and_diverts(new_rig: Callable[..., Rig], release: str) -> None:
    rig = new_rig(policy="overspill_mode=always", slurm=release)
    assert rig.cluster.run(["slurmctld", "-V"], check=True).stdout.split()[-1].startswith(f"{release}.")
    wait_until_diverting(rig)
    job_id = rig.sbatch("#!/bin/sh\nuname -n; exit 3\n", "--overspill=always")
    assert rig.wait_for_state(job_id, "FAILED")["ExitCode"] == "3:0"
    assert rig.output(job_id) == b"site\n"


def test_a_release_that_no_debian_has_is_refused(new_rig: Callable[..., Rig]) -> None:
    with pytest.raises(RigError, match=r"Slurm 1\.2: choose 22\.05, 24\.11, 26\.05"):
        new_rig(slurm="1.2")
