"""What a run's spec asks of the backend."""

import pytest

from overspill.request_id import RequestId
from overspill.v1.agent_pb2 import RunSpec
from overspill_agent.backends.base import Account, Demand, Launch
from overspill_agent.launches import is_closed, launch_of
from overspill_agent.runs import Resources, Run

ALICE = Account(name="alice", uid=2001, gid=2001, groups=(2001,), home="/home/alice")
RUN = Run(
    run_id="0123456789abcdef",
    request_id=RequestId("rig", 1, None, 1_790_000_000, 0),
    account="alice",
    resources=Resources(cpus=1),
    has_stdin=False,
    accepted_at_ms=0,
    state_at_ms=0,
    attempt=1,
)


def launch(*environment: bytes, cwd: bytes = b"/work", script: bytes = b"/spool/job/slurm_script") -> Launch:
    spec = RunSpec(argv=[script], cwd=cwd, environment=environment)
    return launch_of(RUN, spec, ALICE, Demand(RUN.resources), token="secret", url="https://site:7444", ca_pem=b"")


def test_the_first_home_of_the_environment_is_the_one_that_is_made() -> None:
    homes = [b"HOME=/gpfs/%d" % number for number in range(2000)]
    assert launch(b"PATH=/bin", *homes).directories == ("/work", "/home/alice", "/gpfs/0")


@pytest.mark.parametrize("home", [b"HOME=", b"HOME=alice", b"HOME=/home/../etc", b"HOMES=/x"])
def test_a_home_that_is_no_place_is_left_out(home: bytes) -> None:
    assert launch(home).directories == ("/work", "/home/alice")


def test_a_path_has_one_spelling() -> None:
    made = launch(b"HOME=//home/alice/.", cwd=b"//work//a/./b/", script=b"//spool//job/slurm_script")
    assert made.directories == ("/work/a/b", "/home/alice")
    assert made.script_directory == "/spool/job"


@pytest.mark.parametrize("path", [b"/proc/1", b"//proc/x", b"/./sys/x", b"/dev/x", b"/.overspill", b"/.overspill/x"])
def test_what_is_the_kernels_or_the_runners_is_closed(path: bytes) -> None:
    assert is_closed(path)


@pytest.mark.parametrize("path", [b"/proc", b"/", b"/processes/x", b"/dev/shm/x", b"/.overspilled", b"/home/proc/x"])
def test_what_only_looks_like_it_is_open(path: bytes) -> None:
    assert not is_closed(path)
