"""What a run of the local backend can see and do on the agent's host."""

import asyncio
import socket
import subprocess

import pytest

from overspill.v1 import agent_pb2 as pb
from tests.integration.agent_relay import Followed, Relay, until_output
from tests.integration.agent_site import ALICE_UID, SHARED, Site


async def output_of(relay: Relay, script: str, **changes: object) -> str:
    followed = await relay.run(f"#!/bin/bash\n{script}\n".encode(), **changes)
    assert followed.ended is not None
    assert followed.ended.outcome == pb.RUN_OUTCOME_COMPLETED, followed
    return (followed.stdout + followed.stderr).decode()


@pytest.mark.parametrize("directory", ["/home/alice/a/b", "/scratch/alice/job", "/var/lib/data/alice", "/srv/x"])
async def test_the_working_directory_is_empty_private_and_writable_wherever_it_is(relay: Relay, directory: str) -> None:
    script = 'pwd; ls -A; echo mine > file; cat file; stat -c "%u %a" .'
    for _ in range(2):
        output = await output_of(relay, script, cwd=directory.encode())
        assert output == f"{directory}\nmine\n{ALICE_UID} 755\n"


async def test_home_exists_even_where_it_is_another_than_the_working_directory(relay: Relay) -> None:
    environment = [b"PATH=/usr/bin:/bin", b"HOME=/gpfs/home/alice"]
    script = "touch ~/file && ls -A ~; ls -ld ~alice > /dev/null && echo too"
    assert await output_of(relay, script, environment=environment) == "file\ntoo\n"


@pytest.mark.parametrize("home", ["/etc/passwd/x", "/.overspill/x", "/proc/x", "/sys/x/y", "/" + "x" * 300])
async def test_a_home_that_cannot_be_is_no_reason_not_to_run(relay: Relay, home: str) -> None:
    environment = [b"PATH=/usr/bin:/bin", b"HOME=" + home.encode()]
    output = await output_of(relay, "echo $HOME; ls -A /.overspill", environment=environment)
    assert output.split() == [home, "__pycache__", "ca.pem", "runner.py"]


@pytest.mark.parametrize("directory", ["/etc/passwd/x", "/etc/passwd", "/etc/mtab/x"])
async def test_a_working_directory_that_cannot_be_is_told(relay: Relay, directory: str) -> None:
    followed = await relay.run(b"#!/bin/sh\necho never\n", cwd=directory.encode())
    assert followed.ended is not None
    assert followed.ended.outcome == pb.RUN_OUTCOME_REJECTED
    assert f"the working directory {directory} cannot be made at this site: " in followed.ended.reason
    assert not followed.stdout


async def test_the_rest_of_the_host_cannot_be_written(relay: Relay) -> None:
    script = """for place in / /etc /usr /usr/bin /opt /var /var/lib /run; do
  if touch $place/mark 2> /dev/null; then echo wrote $place; fi
done
echo done"""
    assert await output_of(relay, script) == "done\n"


async def test_private_directories_are_empty_and_everybodys_are_as_on_the_host(relay: Relay) -> None:
    script = "ls -A /tmp /var/tmp /dev/shm | grep -v : ; stat -c %a /tmp /var/tmp; touch /tmp/x /var/tmp/x /dev/shm/x"
    assert (await output_of(relay, script)).split() == ["1777", "1777"]
    assert (await output_of(relay, script)).split() == ["1777", "1777"]


async def test_a_shared_directory_is_the_hosts_own(relay: Relay, site: Site) -> None:
    (site.shared / "given").write_text("from outside\n")
    assert await output_of(relay, f"cat {SHARED}/given; echo from inside > {SHARED}/taken") == "from outside\n"
    assert (site.shared / "taken").read_text() == "from inside\n"


async def test_the_agents_own_files_are_not_to_be_found(relay: Relay, site: Site) -> None:
    script = f"ls -d /srv/*; ls -A {site.state_inside}; ls -A {site.root} /etc/overspill 2> /dev/null || echo hidden"
    assert (await output_of(relay, script)).split() == [site.state_inside, SHARED, "hidden"]


async def test_a_run_sees_its_own_processes_only_and_none_of_anothers(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\nsleep 60\n", user_name="bob")
    others = Followed()
    following = asyncio.create_task(relay.follow(run_id, others))
    pids = await output_of(relay, 'ls /proc | grep -c "^[0-9]"; ls /proc/1/root > /dev/null 2>&1; echo $PPID')
    count, parent = map(int, pids.split())
    assert count < 8
    assert parent == 1
    await relay.stub.Stop(pb.StopRequest(run_id=run_id))
    await following


async def test_a_run_has_no_capabilities_and_cannot_get_any(relay: Relay) -> None:
    script = "grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status"
    zero = "0000000000000000"
    values = dict(line.split() for line in (await output_of(relay, script)).splitlines())
    assert values == {"CapEff:": zero, "CapBnd:": zero, "CapAmb:": zero, "NoNewPrivs:": "1"}


async def test_a_run_has_no_terminal_and_an_empty_standard_input(relay: Relay) -> None:
    script = "cat; tty; (: < /dev/tty) 2> /dev/null || echo no terminal; ps -o tty= -p $$"
    assert (await output_of(relay, script)).split("\n")[:2] == ["not a tty", "no terminal"]


async def test_a_script_that_kills_everything_it_can_ends_as_it_would_at_home(relay: Relay) -> None:
    followed = await relay.run(b"#!/bin/bash\nsleep 60 &\nkill -9 -1\necho survived\nexit 6\n")
    assert followed.stdout == b"survived\n"
    assert followed.ended is not None
    assert (followed.ended.outcome, followed.ended.exit_code) == (pb.RUN_OUTCOME_COMPLETED, 6)


async def test_what_a_script_leaves_running_ends_with_it(relay: Relay, site: Site) -> None:
    loop = f"while :; do date +%s%N > {SHARED}/left; sleep 0.02; done"
    script = f"setsid sh -c '{loop}' > /dev/null 2>&1 &\nwhile [ ! -s {SHARED}/left ]; do sleep 0.02; done"
    await output_of(relay, script)
    last = (site.shared / "left").read_bytes()
    await asyncio.sleep(0.2)
    assert (site.shared / "left").read_bytes() == last


async def test_a_run_cannot_make_itself_look_dead(relay: Relay) -> None:
    script = """python3 - << 'END'
import ctypes, fcntl, os
PIDFD_GETFD = 438  # of every architecture
libc = ctypes.CDLL(None)
runner = os.pidfd_open(1)
mine = [libc.syscall(PIDFD_GETFD, runner, number, 0) for number in range(64)]
for pid in ("1", "self"):
    try:
        names = os.listdir("/proc/%s/fd" % pid)
    except OSError:
        continue
    for name in names:
        try:
            mine.append(os.open("/proc/%s/fd/%s" % (pid, name), os.O_RDONLY | os.O_NONBLOCK))
        except OSError:
            continue
for fd in mine:
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except (OSError, ValueError):
        pass
print([fd for fd in mine[:64] if fd >= 0])
END
sleep 2.5; echo alive"""
    assert await output_of(relay, script) == "[]\nalive\n"


async def test_a_run_cannot_look_into_its_runner_or_be_it(relay: Relay) -> None:
    script = """python3 - << 'END'
import ctypes, os
PTRACE_SEIZE = 0x4206
print("seized", ctypes.CDLL(None).ptrace(PTRACE_SEIZE, 1, 0, 0))
for name in ("mem", "environ", "maps", "fd", "cwd"):
    try:
        path = "/proc/1/" + name
        os.listdir(path) if name in ("fd", "cwd") else open(path, "rb").read(1)
        print("open", name)
    except OSError:
        pass
END
ls /.overspill"""
    assert (await output_of(relay, script)).split("\n") == ["seized -1", "__pycache__", "ca.pem", "runner.py", ""]


async def test_the_runners_inherited_descriptors_do_not_reach_the_script(relay: Relay) -> None:
    assert (await output_of(relay, "ls -l /proc/$$/fd | grep -c -E 'lock|overspill.*token'; true")).strip() == "0"


async def test_groups_are_the_accounts_at_this_site(relay: Relay) -> None:
    assert await output_of(relay, "id -u; id -g; id -G") == "2001\n2001\n2001 3000\n"
    assert await output_of(relay, "id -un", user_name="bob") == "bob\n"


async def test_another_run_of_the_same_user_has_other_directories(relay: Relay) -> None:
    run_id = await relay.submit(b"#!/bin/sh\necho secret > /home/alice/secret; echo ready; sleep 60\n")
    first = Followed()
    following = asyncio.create_task(relay.follow(run_id, first))
    await until_output(first, b"ready\n")
    assert await output_of(relay, "ls -A /home/alice") == "project\n"
    await relay.stub.Stop(pb.StopRequest(run_id=run_id))
    await following


async def test_a_run_cannot_reach_the_sockets_of_the_hosts_services(relay: Relay, site: Site) -> None:
    connect = """import socket, sys
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        print("reached")
    except OSError as error:
        print(type(error).__name__)"""
    paths = ["/run/service.sock", "/var/run/service.sock"]
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(site.run / "service.sock"))
        (site.run / "service.sock").chmod(0o777)
        service.listen()
        output = await output_of(relay, f"python3 -c '{connect}' {' '.join(paths)}; ls -A /run/ /var/run/")
        assert site.process is not None
        on_the_host = ["nsenter", "--mount", "--target", str(site.process.pid), "python3", "-c", connect, *paths]
        reached = await asyncio.to_thread(subprocess.run, on_the_host, check=True, capture_output=True)
    assert reached.stdout.decode().split() == ["reached", "reached"]
    assert output.split() == ["FileNotFoundError", "FileNotFoundError", "/run/:", "/var/run/:"]
