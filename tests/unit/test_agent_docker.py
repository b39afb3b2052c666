"""What the docker back end decides without an engine: the container's description, and what the engine's words mean."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from overspill.errors import AdminError, ExhaustedError, UnavailableError, UnrunnableError
from overspill.states import Outcome
from overspill_agent.backends.base import Account, Demand, Image, Launch
from overspill_agent.backends.docker import identity, reading
from overspill_agent.backends.docker.container import Machine, Rules, container_body, container_name, trial_body
from overspill_agent.backends.docker.engine import Followed
from overspill_agent.backends.docker.images import Findings
from overspill_agent.backends.docker.places import places
from overspill_agent.runs import Resources, Seen

ALICE = Account(name="alice", uid=2001, gid=2001, groups=(2001, 3000), home="/home/alice")
MACHINE = Machine("vm1", cpus=4, memory_mib=8192)
PRIVATE = (PurePosixPath("/home"), PurePosixPath("/tmp"))
SECRET = "a-secret-token"


def launch(resources: Resources | None = None) -> Launch:
    return Launch(
        run_id="0123",
        attempt=2,
        account=ALICE,
        demand=Demand(
            resources or Resources(cpus=1, memory_mib=100), image=Image("base", "base:1", "/usr/bin/python3")
        ),
        name="rig/12.0",
        time_limit_s=60,
        script_directory="/var/spool/slurmd/job1",
        directories=("/home/alice/project",),
        agent_url="https://site:7444",
        token=SECRET,
        ca_pem=b"",
    )


def body(
    resources: Resources | None = None,
    rules: Rules | None = None,
    gpus: tuple[str, ...] = (),
    shared: tuple[str, ...] = (),
) -> dict[str, Any]:
    wanted = (PurePosixPath("/var/spool/slurmd/job1"), PurePosixPath("/home/alice/project"))
    return container_body(
        launch(resources),
        rules or Rules("/var/lib/overspill-agent/docker"),
        MACHINE,
        image_id="sha256:1",
        directory=Path("/runs/0123/attempt-2"),
        places=places(PRIVATE, tuple(map(PurePosixPath, shared)), wanted),
        gpus=gpus,
    )


def where(path: str, *, shared: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Return the mount points of a run's own, and what is made in them, beside the private ones."""
    found = places(PRIVATE, tuple(map(PurePosixPath, shared)), (PurePosixPath(path),))
    own = [str(each) for each in found.own if each not in PRIVATE]
    return own, [str(each) for each in found.directories if each not in PRIVATE]


def test_a_container_can_do_nothing_that_its_user_could_not() -> None:
    made = body()
    host = made["HostConfig"]
    assert made["User"] == "2001:2001"
    assert host["GroupAdd"] == ["3000"]
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert (host["ReadonlyRootfs"], host["Privileged"], host["IpcMode"]) == (True, False, "private")
    assert not host.get("Binds")
    assert not host.get("Devices")
    assert not host.get("PidMode")


def test_limits_are_those_of_the_request_without_swap_and_no_larger_than_the_machine() -> None:
    host = body(Resources(cpus=2, memory_mib=1000))["HostConfig"]
    assert host["NanoCpus"] == 2_000_000_000
    assert host["Memory"] == host["MemorySwap"]
    assert 1000 <= host["Memory"] / 2**20 <= 1064
    assert host["PidsLimit"] == 4096
    assert body(Resources(cpus=64, memory_mib=0))["HostConfig"]["NanoCpus"] == 4_000_000_000
    assert body(Resources(cpus=64, memory_mib=0))["HostConfig"]["Memory"] == 0


def test_a_job_that_asks_for_no_memory_has_no_more_than_the_site_offers() -> None:
    host = body(Resources(cpus=1), Rules("/d", memory_mib=2000))["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == (2000 + 48) * 2**20


def test_the_token_is_nowhere_in_the_request() -> None:
    assert SECRET not in json.dumps(body())


def test_what_the_image_would_start_by_itself_is_overridden() -> None:
    made = body()
    assert made["Entrypoint"][0] == "/usr/bin/python3"
    assert made["Cmd"] == []
    assert made["Healthcheck"] == {"Test": ["NONE"]}
    assert made["WorkingDir"] == "/"


def test_a_container_is_kept_after_its_end_and_never_starts_again_and_its_log_is_bounded() -> None:
    host = body(rules=Rules("/d", log_mib=4))["HostConfig"]
    assert host["AutoRemove"] is False
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["LogConfig"]["Config"] == {"max-size": "2048k", "max-file": "2"}


def test_the_labels_say_whose_it_is() -> None:
    assert container_name("0123", 2) == "overspill-0123-2"
    assert body(rules=Rules("/d"))["Labels"] == {
        "org.overspill.agent": "/d",
        "org.overspill.run": "0123",
        "org.overspill.attempt": "2",
        "org.overspill.job": "rig/12.0",
        "org.overspill.gpus": "",
    }


def test_labels_of_an_image_count_for_none_of_its_containers() -> None:
    """A container has its image's labels but for those that it has itself."""
    labels = trial_body("sha256:1", ["python3"], Rules("/d"), Path("/d/trial-1"))["Labels"]
    assert labels.keys() == body()["Labels"].keys()
    assert labels["org.overspill.run"] == ""


@pytest.mark.parametrize("label", ["../../../home", "/home", "..", ".images", ""])
def test_a_label_that_names_a_path_is_no_run(label: str) -> None:
    labels = {"org.overspill.agent": "/d", "org.overspill.run": label}
    assert reading.listed({"Id": "f", "State": "exited", "Labels": labels}).run_id == ""
    assert reading.run_of_event({"Action": "die", "Actor": {"ID": "f", "Attributes": labels}}, "/d") == ""


def test_the_network_is_the_configured_one() -> None:
    rules = Rules("/d", network="jobs", extra_hosts={"site": "host-gateway"}, ulimits={"nofile": 5})
    host = body(rules=rules)["HostConfig"]
    assert host["NetworkMode"] == "jobs"
    assert host["ExtraHosts"] == ["site:host-gateway"]
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 5, "Hard": 5}]


def test_gpus_are_asked_for_by_device_and_numbered_from_zero_in_the_job() -> None:
    made = body(Resources(cpus=1, gpus=2), Rules("/d", gpu_driver="nvidia"), gpus=("GPU-b", "GPU-d"))
    assert made["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-b", "GPU-d"], "Capabilities": [["gpu"]]}
    ]
    assert "CUDA_VISIBLE_DEVICES=0,1" in made["Env"]
    assert made["Labels"]["org.overspill.gpus"] == "GPU-b,GPU-d"
    assert not any(entry.startswith("NVIDIA") for entry in made["Env"])


def test_who_has_asked_for_no_gpu_sees_none_whatever_image_and_engine_do_by_default() -> None:
    assert body()["HostConfig"]["DeviceRequests"] == []
    assert "NVIDIA_VISIBLE_DEVICES=void" in body()["Env"]
    assert "NVIDIA_VISIBLE_DEVICES=void" in trial_body("sha256:1", ["python3"], Rules("/d"), Path("/d/trial-1"))["Env"]


def test_only_the_runs_own_directories_and_the_shared_ones_are_mounted() -> None:
    mounts = {mount["Target"]: mount for mount in body(shared=("/work",))["HostConfig"]["Mounts"]}
    assert {target: mount["Source"] for target, mount in mounts.items()} == {
        "/home": "/runs/0123/attempt-2/files/home",
        "/tmp": "/runs/0123/attempt-2/files/tmp",
        "/var/spool/slurmd/job1": "/runs/0123/attempt-2/files/var/spool/slurmd/job1",
        "/work": "/work",
        "/etc/passwd": "/runs/0123/attempt-2/etc/passwd",
        "/etc/group": "/runs/0123/attempt-2/etc/group",
        "/.overspill": "/runs/0123/attempt-2/control",
    }
    assert [target for target, mount in mounts.items() if mount["ReadOnly"]] == ["/etc/passwd", "/etc/group"]
    assert {mount["Type"] for mount in mounts.values()} == {"bind"}


def test_an_image_is_tried_without_network_and_as_nobody() -> None:
    made = trial_body("sha256:1", ["python3"], Rules("/d"), Path("/d/trial-1"))
    assert made["HostConfig"]["NetworkMode"] == "none"
    assert made["User"] == "65534:65534"


@pytest.mark.parametrize(
    ("path", "own", "made"),
    [
        ("/home/alice/a", [], ["/home/alice", "/home/alice/a"]),
        ("/scratch/alice/a", ["/scratch/alice/a"], ["/scratch/alice/a"]),
        ("/opt/alice", ["/opt/alice"], ["/opt/alice"]),
        *((path, [], []) for path in ("/", "/opt", "/usr/share", "/etc", "/dev/x", "/.overspill/x", "/work/alice")),
        ("/scratch/" + "x" * 300, [], []),
    ],
)
def test_a_directory_is_the_runs_own_unless_it_is_the_images_or_the_sites(
    path: str, own: list[str], made: list[str]
) -> None:
    assert where(path, shared=("/work",)) == (own, made)


def test_a_mount_point_that_the_engine_cannot_name_is_refused_with_its_name() -> None:
    with pytest.raises(UnrunnableError, match=r"/scratch/\\xff"):
        where("/scratch/\udcff")
    assert where("/home/\udcff")[0] == []


def test_the_account_is_the_only_one_of_its_name_and_number() -> None:
    image = "root:x:0:0:root:/root:/bin/bash\nubuntu:x:2001:2001::/home/ubuntu:/bin/sh\nalice:x:7:7::/:/bin/sh\n"
    assert identity.passwd(image, ALICE) == (
        "root:x:0:0:root:/root:/bin/bash\nalice:x:2001:2001::/home/alice:/bin/bash\n"
    )
    assert identity.group("root:x:0:\nubuntu:x:2001:\nhpc:x:9:\n", ALICE, {2001: "alice", 3000: "hpc"}) == (
        "root:x:0:\nalice:x:2001:\nhpc:x:3000:alice\n"
    )
    assert identity.group("root:x:0:\n", ALICE, {}) == "root:x:0:\n"
    assert identity.passwd("", ALICE) == "alice:x:2001:2001::/home/alice:/bin/bash\n"


def inspected(**state: object) -> dict[str, Any]:
    """Return what the engine says of a container that has ended by itself, but for `state`."""
    ended = {"Running": False, "Paused": False, "Restarting": False, "OOMKilled": False, "ExitCode": 0}
    started = {"StartedAt": "2026-11-21T17:12:16.1Z"}
    labels = {"org.overspill.run": "0123", "org.overspill.attempt": "2", "org.overspill.gpus": "a,b"}
    return {"Id": "f" * 64, "Config": {"Labels": labels}, "State": {**ended, **started, **state}}


def test_a_container_is_read() -> None:
    container = reading.container(inspected())
    assert (container.run_id, container.attempt, container.gpus) == ("0123", 2, ("a", "b"))
    assert container.was_started
    assert not reading.container(inspected(StartedAt="0001-01-01T00:00:00Z")).was_started


@pytest.mark.parametrize(
    ("state", "is_alive", "is_over"),
    [("created", False, False), ("running", True, False), ("paused", True, False), ("exited", False, True)],
)
def test_a_listed_container_is_read(state: str, is_alive: bool, is_over: bool) -> None:  # noqa: FBT001
    labels = {"org.overspill.run": "0123", "org.overspill.gpus": "a,b"}
    found = reading.listed({"Id": "f" * 64, "State": state, "Labels": labels})
    assert (found.run_id, found.gpus, found.is_alive, found.is_over) == ("0123", ("a", "b"), is_alive, is_over)


@pytest.mark.parametrize("state", [{"Running": True}, {"Running": True, "Paused": True}, {"Restarting": True}])
def test_a_container_with_processes_is_alive_whatever_was_done_to_it(state: dict[str, object]) -> None:
    sighting = reading.sighting(reading.container(inspected(**state)), "vm1")
    assert (sighting.seen, sighting.verdict) == (Seen.ALIVE, None)
    assert (sighting.machine, sighting.remote_id) == ("vm1", "f" * 12)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, Outcome.OUT_OF_MEMORY),
        ({"ExitCode": 137}, Outcome.NODE_FAIL),
        ({"ExitCode": 0, "OOMKilled": True}, None),
        ({"ExitCode": 4}, None),
        ({"ExitCode": 255}, None),
    ],
)
def test_out_of_memory_is_told_from_killed_by_hand_and_from_a_child_that_was_not_missed(
    state: dict[str, object], outcome: Outcome | None
) -> None:
    sighting = reading.sighting(reading.container(inspected(**state)), "vm1")
    assert sighting.seen is Seen.GONE
    assert (sighting.verdict and sighting.verdict.outcome) == outcome


def test_a_container_that_is_not_there_any_more_was_a_node_that_failed() -> None:
    sighting = reading.sighting_of_removed("vm1")
    assert sighting.seen is Seen.GONE
    assert sighting.verdict is not None
    assert sighting.verdict.outcome is Outcome.NODE_FAIL


@pytest.mark.parametrize(
    ("explanation", "kind", "told"),
    [
        ("write /x: no space left on device", ExhaustedError, "no space left"),
        ("transport is closing: unavailable", UnavailableError, "transport"),
        ("bind source path does not exist: /d", AdminError, "[docker] directory"),
        ('could not select device driver "" with capabilities: [[gpu]]', AdminError, "[docker] gpu_driver"),
        ("OCI runtime create failed", AdminError, "start a run: OCI"),
    ],
)
def test_a_refusal_says_who_must_do_what(explanation: str, kind: type[Exception], told: str) -> None:
    error = reading.refusal("start a run", 500, explanation)
    assert isinstance(error, kind)
    assert told in error.reason


def test_events_of_others_are_not_ours() -> None:
    attributes = {"org.overspill.agent": "/d", "org.overspill.run": "0123", "exitCode": "137"}
    event = {"Action": "die", "Actor": {"ID": "f", "Attributes": attributes}}
    assert reading.run_of_event(event, "/d") == "0123"
    assert reading.run_of_event(event, "/other") == ""
    assert reading.run_of_event({"Action": "die", "Actor": {"Attributes": {}}}, "/d") == ""
    assert reading.exit_code_of_event(event) == 137
    assert reading.exit_code_of_event({**event, "Action": "destroy"}) is None


def test_the_engines_facts_are_read() -> None:
    facts = reading.engine_facts(
        {"Name": "vm1", "NCPU": 4, "MemTotal": 8192 * 2**20, "SecurityOptions": ["name=seccomp", "name=rootless"]}
    )
    assert facts.machine == MACHINE
    assert facts.is_rootless
    assert not facts.has_live_restore


BASE = Image("base", "base:1", "/usr/bin/python3")
FIT: dict[str, object] = {
    "version": [3, 11],
    "cache": "__pycache__/runner.cpython-311.pyc",
    "compiled": "AA==",
    "passwd": "root:x:0:0::/:/bin/sh\n",
    "group": "",
}


def test_what_an_image_says_of_itself_is_taken() -> None:
    tried = Findings(json.dumps(FIT), "").judge(BASE, "sha256:1")
    assert tried.compiled == {"__pycache__/runner.cpython-311.pyc": b"\0"}
    assert tried.passwd == FIT["passwd"]


@pytest.mark.parametrize(
    "said",
    [
        *({**FIT, "cache": name} for name in ("/etc/cron.d/x", "__pycache__/../../../x.pyc", "runner.py", "", None)),
        {**FIT, "compiled": 1},
        {**FIT, "passwd": ["root"]},
        {"version": 3},
        {},
        [],
        1,
    ],
)
def test_an_image_that_says_anything_else_is_refused_and_no_file_is_made_of_its_words(said: object) -> None:
    with pytest.raises(UnrunnableError, match="does not run the runner"):
        Findings(json.dumps(said), "").judge(BASE, "sha256:1")


class Confused(BaseHTTPRequestHandler):
    """An engine whose first word of itself makes no sense."""

    answers: Iterator[dict[str, object]]
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_args: object) -> None: ...

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            document: dict[str, object] = {"ApiVersion": "1.41"}
        elif self.path.endswith("/info"):
            document = next(self.answers)
        else:
            document = {}
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def test_events_are_followed_again_after_an_engine_that_made_no_sense(tmp_path: Path) -> None:
    Confused.answers = iter([{}, *[{"Name": "vm1", "NCPU": 2, "MemTotal": 2**30}] * 100])
    socket = tmp_path / "docker.sock"
    is_there = threading.Event()
    with ThreadingUnixStreamServer(str(socket), Confused) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        followed = Followed(f"unix://{socket}", "/d")
        followed.start(lambda facts: is_there.set() if facts else None, lambda _event: None)
        assert is_there.wait(20)
        followed.close()
        server.shutdown()
