"""A site for tests: a real agent process with certificates and user accounts of its own, and a relay's view of it.

The agent runs in its own mount namespace, in which /etc/passwd and /etc/group know alice and bob; the host's do not.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from overspill.tls import TlsFiles
from overspill_agent.config import DEFAULT_RUNNER

ALICE_UID = 2001
CLUSTER = "rig"
DEADLINE_S = 60.0
_SOURCE = Path(__file__).resolve().parents[2]
#: A directory that is the same at the cluster and at the site; it exists in the agent's mount namespace only.
SHARED = "/srv/shared"
_IN_NAMESPACE = """
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --bind "$1/run" /run
mount -t tmpfs tmpfs /srv
mkdir /srv/shared
mount --bind "$1/shared" /srv/shared
if [ -n "$3" ]; then mount -t tmpfs -o "size=$3" tmpfs "$1/state"; fi
mkdir "$2"
mount --bind "$1/state" "$2"
shift 3
exec "$@"
"""
_PASSWD = "\nalice:x:2001:2001::/home/alice:/bin/bash\nbob:x:2002:2002::/home/bob:/bin/bash\n"
_GROUP = "\nalice:x:2001:\nbob:x:2002:\nhpc:x:3000:alice,bob\nengine:x:998:alice,bob\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds; fail after the deadline, saying what did not happen."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.01)


@dataclass
class Site:
    """One agent's directories, addresses and certificates; the agent itself comes and goes."""

    root: Path
    grpc_port: int = field(default_factory=free_port)
    runner_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    runner: Path = DEFAULT_RUNNER
    cpus: int = 8
    lease_s: int = 90
    state_size: str = ""
    #: Sections that are added to agent.toml.
    sections: str = ""
    #: "CPUS,CPUS,...": the agent has the shipped fake back end with these slots.
    fake_slots: str = ""
    #: `[images]` of the agent with the fake back end.
    images: str = "images = {}"
    authority: trustme.CA = field(default_factory=trustme.CA)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.root.chmod(0o755)
        self._write_certificate("site", "localhost", "127.0.0.1")
        self._write_certificate("cluster", CLUSTER)
        self._write_certificate("other", "other")
        self.authority.cert_pem.write_to_path(str(self.root / "ca.crt"))
        (self.root / "passwd").write_text(Path("/etc/passwd").read_text() + _PASSWD)
        (self.root / "group").write_text(Path("/etc/group").read_text() + _GROUP)
        for directory in (self.state, self.shared, self.run):
            directory.mkdir(exist_ok=True)
        os.chown(self.shared, ALICE_UID, ALICE_UID)

    @property
    def config_path(self) -> Path:
        return self.root / "agent.toml"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def state_inside(self) -> str:
        """Where the agent sees `state`: in no private directory, so that it must hide it from runs."""
        return f"/srv/agent-{self.grpc_port}"

    @property
    def shared(self) -> Path:
        """What runs see as `SHARED`."""
        return self.root / "shared"

    @property
    def run(self) -> Path:
        """What the agent's host has as /run."""
        return self.root / "run"

    @property
    def log_path(self) -> Path:
        return self.root / "agent.log"

    def write_config(self) -> None:
        certificate = f'certificate = "{self.root}/site.crt", private_key = "{self.root}/site.key"'
        tls = f'{{ {certificate}, ca = "{self.root}/ca.crt" }}'
        self.config_path.write_text(
            f"""
[server]
listen = "127.0.0.1:{self.grpc_port}"
tls = {tls}
[runner_channel]
listen = "127.0.0.1:{self.runner_port}"
url = "https://localhost:{self.runner_port}"
lease_s = {self.lease_s}
tls = {tls}
[store]
path = "{self.state_inside}/agent.db"
reserve_mib = 4
[local]
directory = "{self.state_inside}/runs"
cpus = {self.cpus}
memory_mib = 16384
python = "/usr/bin/python3"
runner = "{self.runner}"
private = ["/home", "/tmp", "/var/tmp", "/dev/shm"]
shared = ["{SHARED}"]
features = ["avx512"]
[metrics]
listen = "127.0.0.1:{self.metrics_port}"
tls = {tls}
[accounts.{CLUSTER}]
alice = "alice"
bob = "bob"
root = "root"
daemon = "daemon"
ghost = "ghost"
[accounts.other]
alice = "alice"
{self.sections}"""
        )
        (self.root / "images.toml").write_text(self.images)

    def start(self) -> None:
        """Start the agent and wait until it takes requests."""
        self.write_config()
        with self.log_path.open("ab") as log:
            started_at = log.tell()
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_NAMESPACE, "sh"),
                    *(str(self.root), self.state_inside, self.state_size),
                    *(sys.executable, "-m", *self._program()),
                ],
                env=os.environ | {"PYTHONPATH": f"{_SOURCE}/proto:{_SOURCE}/agent:{_SOURCE}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._has_started(started_at), f"the agent starts; see {self.log_path}")

    def _program(self) -> list[str]:
        """Return the module that is the agent, and its arguments."""
        if self.fake_slots:
            images = str(self.root / "images.toml")
            return ["tests.integration.fake_agent", str(self.config_path), self.fake_slots, images]
        return ["overspill_agent", "run", "--config", str(self.config_path), "--log-level", "debug"]

    def _has_started(self, log_from: int) -> bool:
        assert self.process is not None
        log = self.log_path.read_bytes()[log_from:]
        assert self.process.poll() is None, log.decode()
        return b'"agent_started"' in log

    def kill(self) -> None:
        """End the agent as a power cut would, leaving its runs alone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the agent as an operator would, leaving its runs alone."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_S)
            self.process = None

    def tls(self, name: str = "cluster") -> TlsFiles:
        return TlsFiles(self.root / f"{name}.crt", self.root / f"{name}.key", self.root / "ca.crt")

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of the agent's program that sees what the running agent sees."""
        assert self.process is not None
        enter = ["nsenter", "--mount", "--target", str(self.process.pid)]
        return [*enter, sys.executable, "-m", "overspill_agent", *arguments, "--config", str(self.config_path)]

    def _write_certificate(self, name: str, *identities: str) -> None:
        issued = self.authority.issue_cert(*identities)
        issued.private_key_pem.write_to_path(str(self.root / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(self.root / f"{name}.crt"))

    def runners(self) -> list[int]:
        """Return the pids of all bubblewrap monitors and PID 1s that hold a lock of this site's runs."""
        agent = self.process.pid if self.process else None
        pids = [int(process.name) for process in Path("/proc").iterdir() if process.name.isdigit()]
        return [pid for pid in pids if pid != agent and any(self.state_inside in link for link in _links(pid))]

    def kill_runners(self) -> None:
        """End whatever still runs of this site's runs."""
        for pid in self.runners():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.runners(), "all runners are gone")


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _links(pid: int) -> list[str]:
    """Return what the process has open; nothing if it is gone."""
    try:
        return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


@contextmanager
def running_site(root: Path, **settings: object) -> Iterator[Site]:
    """Give a site whose agent runs; afterwards nothing of it does."""
    site = Site(root, **settings)  # type: ignore[arg-type]
    try:
        site.start()
        yield site
    finally:
        site.stop()
        site.kill_runners()
