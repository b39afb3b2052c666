"""An HTCondor pool in containers of a host's engine: central manager, access point, two execute points.

They have a network of their own in the host, IDTOKENS for everything, and names by /etc/hosts alone. Nobody may do what
nobody needs: the agent may read and write, and belong jobs to alice and bob.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from overspill import __version__
from overspill_images.recipe import NAMESPACE
from tests.rig.engine import SOCKET, HostEngine
from tests.rig.errors import RigError
from tests.rig.host import Host
from tests.rig.waiting import poll

_IMAGE = f"{NAMESPACE}/htcondor:{__version__}"
_NETWORK = "condor"
_SUBNET = "10.88.0.0/24"
#: The host's own address on the pool's network; containers of any network of the engine reach it, too.
HOST_ADDRESS = "10.88.0.1"
DOMAIN = "overspill"
AGENT_IDENTITY = f"agent@{DOMAIN}"
SCHEDD = "ap@ap"
#: In the host, and at the same path in execute points: the engine mounts jobs' directories from there.
DIRECTORY = "/srv/condor"
#: Of machines: the images that they have.
IMAGES_ATTRIBUTE = "OverspillImages"
#: One that a test may make.
CHANGED_IMAGE = "changed:1"
#: In the host, for the agent.
TOKENS = f"{DIRECTORY}/tokens.d"
#: What runs find as the agent's name wherever they are.
AGENT_NAME = "agent.condor"
#: Memory, as much as any disk of a machine's, because it can be made smaller.
_SCRATCH, _SCRATCH_SIZE = f"{DIRECTORY}/execute", "16g"
_LITTLE_KIB = 32
_CLOCK_LIBRARY = f"{DIRECTORY}/libfaketime.so.1"
_UP_TIMEOUT_S = 60.0
_POLL_S = 0.5


class Machine(StrEnum):
    """A machine of the pool, by its host name."""

    CENTRAL_MANAGER = "cm"
    ACCESS_POINT = "ap"
    EXECUTE_1 = "ep1"
    EXECUTE_2 = "ep2"

    @property
    def address(self) -> str:
        return f"10.88.0.{10 + list(Machine).index(self)}"

    @property
    def role(self) -> str:
        return "ep" if self in EXECUTE_POINTS else self.value


EXECUTE_POINTS = (Machine.EXECUTE_1, Machine.EXECUTE_2)
COLLECTOR = Machine.CENTRAL_MANAGER.address
CPUS = 8
MEMORY_MIB = 8192
GPUS = 2

_COMMON = f"""
CONDOR_HOST = {COLLECTOR}
TRUST_DOMAIN = {DOMAIN}
UID_DOMAIN = {DOMAIN}
TRUST_UID_DOMAIN = true
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_ENCRYPTION = REQUIRED
SEC_DEFAULT_INTEGRITY = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = IDTOKENS
SEC_CLIENT_AUTHENTICATION_METHODS = IDTOKENS
ALLOW_READ = condor@{DOMAIN}, {AGENT_IDENTITY}, alice@{DOMAIN}
ALLOW_WRITE = condor@{DOMAIN}, {AGENT_IDENTITY}, alice@{DOMAIN}
ALLOW_DAEMON = condor@{DOMAIN}
ALLOW_NEGOTIATOR = condor@{DOMAIN}
ALLOW_ADMINISTRATOR = condor@{DOMAIN}
UPDATE_INTERVAL = 5
"""
_ROLES = {
    "cm": """
DAEMON_LIST = MASTER, COLLECTOR, NEGOTIATOR
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
""",
    "ap": rf"""
DAEMON_LIST = MASTER, SCHEDD
SCHEDD_NAME = ap
QUEUE_SUPER_USERS = root, condor, {AGENT_IDENTITY}
QUEUE_SUPER_USER_MAY_IMPERSONATE = ^(alice|bob|dot\.ted-User_1)(@{DOMAIN})?$
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
PERIODIC_EXPR_INTERVAL = 5
MASTER_BACKOFF_CONSTANT = 1
""",
    # CLAIM_WORKLIFE: the schedd would start the next job on a slot that it has from before a machine's restart, which
    # fails. BASE_CGROUP: a container cannot write to /sys/fs/cgroup. DOCKER_IMAGE_CACHE_SIZE: the default makes execute
    # points remove images from the engine, ours among them.
    "ep": f"""
DAEMON_LIST = MASTER, STARTD
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = true
MODIFY_REQUEST_EXPR_REQUESTMEMORY = RequestMemory
RUNBENCHMARKS = false
CLAIM_WORKLIFE = 0
BASE_CGROUP =
EXECUTE = {DIRECTORY}/execute/$(HOSTNAME)
DOCKER = /usr/bin/docker
DOCKER_IMAGE_CACHE_SIZE = 1000000
DOCKER_VOLUMES = PASSWD, GROUP
DOCKER_VOLUME_DIR_PASSWD = {DIRECTORY}/execute/passwd:/etc/passwd:ro
DOCKER_VOLUME_DIR_GROUP = {DIRECTORY}/execute/group:/etc/group:ro
DOCKER_MOUNT_VOLUMES = PASSWD, GROUP
DOCKER_EXTRA_ARGUMENTS = --add-host={AGENT_NAME}:{HOST_ADDRESS}
{IMAGES_ATTRIBUTE} = "{NAMESPACE}/runtime-mini:{__version__}, {CHANGED_IMAGE}"
STARTD_ATTRS = $(STARTD_ATTRS) {IMAGES_ATTRIBUTE}
STARTER_UPDATE_INTERVAL = 5
use POLICY : HOLD_IF_MEMORY_EXCEEDED
MASTER_BACKOFF_CONSTANT = 1
""",
}
#: Nobody answers questions about names here, and every program of HTCondor's would wait for it.
_NAMES = "sed -i 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf"
_SHARED_HOME = """
DOCKER_VOLUMES = $(DOCKER_VOLUMES), HOME
DOCKER_VOLUME_DIR_HOME = /home:/home
DOCKER_MOUNT_VOLUMES = $(DOCKER_MOUNT_VOLUMES), HOME
"""
#: Makes the pool's key and everybody's tokens; sees `DIRECTORY` of the host.
_MAKE_KEYS = f"""
set -e
{_NAMES}
umask 077
cp {DIRECTORY}/config/common.conf /etc/condor/config.d/50-common.conf
mkdir -p /etc/condor/passwords.d {DIRECTORY}/keys {TOKENS}
condor_store_cred add -f /etc/condor/passwords.d/POOL -p "$(head -c 32 /dev/urandom | base64)" > /dev/null
cp /etc/condor/passwords.d/POOL {DIRECTORY}/keys/POOL
condor_token_create -identity condor@{DOMAIN} > {DIRECTORY}/keys/condor
condor_token_create -identity alice@{DOMAIN} -authz READ -authz WRITE > {DIRECTORY}/keys/alice
condor_token_create -identity {AGENT_IDENTITY} -authz READ -authz WRITE > {TOKENS}/agent
"""
_START = f"""
set -e
cp {DIRECTORY}/config/common.conf /etc/condor/config.d/50-common.conf
cp {DIRECTORY}/config/$1.conf /etc/condor/config.d/60-role.conf
{_NAMES}
umask 077
mkdir -p /etc/condor/passwords.d /etc/condor/tokens.d
cp {DIRECTORY}/keys/POOL /etc/condor/passwords.d/POOL
cp {DIRECTORY}/keys/condor /etc/condor/tokens.d/condor
umask 022
for directory in /run/condor /var/lock/condor /var/log/condor /var/spool/condor; do
    mkdir -p $directory
    chown condor:condor $directory
done
case $1 in
ep)
    socket_group=$(stat -c %g /run/docker.sock)
    getent group $socket_group > /dev/null || groupadd --gid $socket_group engine
    usermod --append --groups $socket_group condor
    # Simulated, each with a name of its own in the whole pool.
    gpus=$(sed "s/^/CUDA$(hostname | tr -dc 0-9)/" {DIRECTORY}/config/gpus | paste -sd ,)
    [ -z "$gpus" ] || echo "MACHINE_RESOURCE_GPUs = $gpus" > /etc/condor/config.d/70-gpus.conf
    mkdir -p {DIRECTORY}/execute/$(hostname)
    chown condor {DIRECTORY}/execute/$(hostname)
    cp /etc/passwd /etc/group {DIRECTORY}/execute/
    ;;
ap)
    install -d -m 700 -o alice -g alice /home/alice/.condor /home/alice/.condor/tokens.d
    install -m 600 -o alice -g alice {DIRECTORY}/keys/alice /home/alice/.condor/tokens.d/alice
    ;;
esac
clock=$(cat {DIRECTORY}/config/clock-$(hostname) 2> /dev/null || true)
if [ -n "$clock" ]; then export LD_PRELOAD={_CLOCK_LIBRARY} FAKETIME="$clock"; fi
exec condor_master -f
"""


class CondorPool:
    """A pool; it ends with the host's engine. Its machines come and go by the verbs of bad days."""

    def __init__(self, host: Host) -> None:
        """Describe the pool of a host with an engine that has the image `htcondor`; `start` makes it."""
        self._host = host
        self._docker = HostEngine(host).docker

    @property
    def tokens(self) -> Path:
        """The directory of the agent's token, seen from outside the host; `TOKENS` inside."""
        return self._host.path(TOKENS)

    def start(
        self, *, cpus: int = CPUS, memory_mib: int = MEMORY_MIB, gpus: int = GPUS, has_shared_home: bool = False
    ) -> None:
        """Make the pool, all machines at once, and return when jobs can be submitted and machines are offered.

        Args:
            cpus: of each execute point.
            memory_mib: likewise.
            gpus: likewise; simulated.
            has_shared_home: whether containers of jobs see the host's /home.
        """
        for directory in ("config", "execute"):
            self._host.path(f"{DIRECTORY}/{directory}").mkdir(parents=True, exist_ok=True)
        for name, content in {"common": _COMMON, **_ROLES}.items():
            self._host.write(f"{DIRECTORY}/config/{name}.conf", content)
        home = _SHARED_HOME if has_shared_home else ""
        with self._host.path(f"{DIRECTORY}/config/ep.conf").open("a") as settings:
            settings.write(f"NUM_CPUS = {cpus}\nMEMORY = {memory_mib}\n{home}")
        self._host.write(f"{DIRECTORY}/config/gpus", "".join(f"{index}\n" for index in range(gpus)))
        self._host.write(f"{DIRECTORY}/start.sh", _START)
        tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={_SCRATCH_SIZE},mode=755", "tmpfs", _SCRATCH]
        self._host.run(tmpfs, check=True)
        self._docker("network", "create", f"--subnet={_SUBNET}", f"--gateway={HOST_ADDRESS}", _NETWORK)
        volume = f"--volume={DIRECTORY}:{DIRECTORY}"
        self._docker("run", "--rm", "--network=none", volume, _IMAGE, "sh", "-c", _MAKE_KEYS)
        self.each(Machine, self._create)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the collector knows the schedd and every execute point that runs.

        Raises:
            RigError: in time it does not; with the end of a log.
        """

        def is_ready() -> bool:
            try:
                known = self.tool("condor_status", "-any", "-af", "MyType", "Machine", user="root")
            except ChildProcessError:
                return False
            lines = known.splitlines()
            return "Scheduler ap" in lines and all(
                f"Machine {machine}" in lines for machine in EXECUTE_POINTS if self.is_up(machine)
            )

        if not poll(is_ready, timeout_s=_UP_TIMEOUT_S, interval_s=_POLL_S):
            log = self.execute(Machine.CENTRAL_MANAGER, "sh", "-c", "tail -n 20 /var/log/condor/CollectorLog")
            raise RigError(f"the HTCondor pool is not up after {_UP_TIMEOUT_S:.0f} s; the collector says\n{log}")

    def execute(self, machine: Machine, *argv: str, user: str = "root") -> str:
        """Execute a command on a machine and return its output.

        Raises:
            ChildProcessError: with the end of what it said.
        """
        return self._docker("exec", f"--user={user}", machine, *argv)

    def tool(self, *argv: str, user: str = "root") -> str:
        """Execute a command of HTCondor's on the access point, as its operator or another user."""
        return self.execute(Machine.ACCESS_POINT, *argv, user=user)

    def is_up(self, machine: Machine) -> bool:
        return self._docker("inspect", "--format={{.State.Running}}", machine).strip() == "true"

    def kill(self, machine: Machine) -> None:
        """Kill every process of HTCondor's on a machine, as a crash would; what jobs have started goes on."""
        # Detached: the machine ends with its condor_master, and whoever waits for the command is killed, too.
        self._docker("exec", "--detach", machine, "pkill", "-9", "condor_")

    def stop(self, machine: Machine) -> None:
        """Switch a machine off: everything in it dies; containers of jobs are the engine's and go on."""
        if self.is_up(machine):
            self._docker("kill", machine)

    def freeze(self, machine: Machine) -> None:
        """Have a machine stand still: it answers nobody, and nobody is told."""
        self._docker("pause", machine)

    def thaw(self, machine: Machine) -> None:
        self._docker("unpause", machine)

    def bring_back(self, machine: Machine) -> None:
        """Start a machine again that was killed or stopped, and wait until the pool has it."""
        _wait(lambda: not self.is_up(machine), f"{machine} ends")
        self._docker("start", machine)
        self.wait_until_ready()

    def stop_schedd(self) -> None:
        """Have the access point without its schedd; its shadows go on."""
        self.tool("condor_off", "-fast", "-daemon", "schedd")
        _wait(lambda: not self._has_schedd(), "the schedd ends")

    def kill_schedd(self) -> None:
        """Kill the schedd alone; the master starts another one in some seconds."""
        self.tool("pkill", "-9", "condor_schedd")

    def start_schedd(self) -> None:
        self.tool("condor_on", "-daemon", "schedd")
        self.wait_until_ready()

    def make_token(self, lifetime_s: int | None = None) -> str:
        """Return another token of the agent's."""
        life = [] if lifetime_s is None else ["-lifetime", str(lifetime_s)]
        argv = ("condor_token_create", "-identity", AGENT_IDENTITY, "-authz", "READ", "-authz", "WRITE", *life)
        return self.execute(Machine.CENTRAL_MANAGER, *argv)

    def set_clock(self, machine: Machine, offset: str) -> None:
        """Have all of HTCondor on a machine, switched off and on for it, see another time: "+10m"; "" is the right one.

        Jobs see it with `clock_environment`.
        """
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        self._host.write(_CLOCK_LIBRARY, library.read_bytes())
        self._host.write(f"{DIRECTORY}/config/clock-{machine}", offset)
        self.stop(machine)
        self.bring_back(machine)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Have next to no room left where machines make jobs' directories."""
        used = self._host.run(["df", "--output=used", "--block-size=1K", _SCRATCH], check=True).stdout.split()[-1]
        self._host.run(["mount", "-o", f"remount,size={int(used) + _LITTLE_KIB}k", _SCRATCH], check=True)
        try:
            yield
        finally:
            self._host.run(["mount", "-o", f"remount,size={_SCRATCH_SIZE}", _SCRATCH], check=True)
            # A startd that has seen a full disk offers none for a long time.
            self.each(EXECUTE_POINTS, self.stop)
            self.each(EXECUTE_POINTS, self.bring_back)

    def job_containers(self) -> list[str]:
        """Name the containers that jobs run in."""
        return self._docker("ps", "--filter=label=org.htcondorproject=True", "--format={{.Names}}").splitlines()

    def each(self, machines: Sequence[Machine] | type[Machine], act: Callable[[Machine], object]) -> None:
        """Do something to several machines at once."""
        with ThreadPoolExecutor() as threads:
            for done in [threads.submit(act, machine) for machine in machines]:
                done.result()

    def _has_schedd(self) -> bool:
        return "condor_schedd" in self.tool("ps", "-e", "-o", "comm=")

    def _create(self, machine: Machine) -> None:
        hosts = [f"--add-host={name}:{name.address}" for name in Machine]
        engine = [f"--volume={SOCKET}:/run/docker.sock"] if machine in EXECUTE_POINTS else []
        # As on a host of its own: without it condor_procd does not find the shadows of a schedd that has died, the
        # master does not kill them, and within two minutes they end the jobs that new shadows have taken over.
        tracing = ["--cap-add=SYS_PTRACE"] if machine is Machine.ACCESS_POINT else []
        self._docker(
            "run", "--detach", "--init", f"--name={machine}", f"--hostname={machine}",
            f"--network={_NETWORK}", f"--ip={machine.address}", *hosts, f"--add-host={AGENT_NAME}:{HOST_ADDRESS}",
            f"--volume={DIRECTORY}:{DIRECTORY}", *engine, *tracing, _IMAGE, "sh", f"{DIRECTORY}/start.sh", machine.role,
        )  # fmt: skip


def clock_environment(offset: str) -> str:
    """Return the submit command `environment` of a job that is to see the time of a machine with `set_clock`."""
    return f'"LD_PRELOAD={_CLOCK_LIBRARY} FAKETIME={offset}"'


def _wait(condition: Callable[[], bool], what: str) -> None:
    if not poll(condition, timeout_s=_UP_TIMEOUT_S, interval_s=_POLL_S):
        raise RigError(f"not within {_UP_TIMEOUT_S:.0f} s: {what}")
