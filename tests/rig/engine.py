"""A Docker engine on one of the rig's hosts: it and its containers end with the host, and this machine is left alone.

dockerd runs in the host's namespaces: its bridge, its rules and its mounts are the host's, its containers reach what
listens on the host, by the bridge's address or the host's.
"""

from __future__ import annotations

from pathlib import Path

from overspill_images.builder import Image
from overspill_images.engine import daemon_json, docker
from tests.rig.daemons import Daemon, background_daemon
from tests.rig.host import Host

#: As clients in the host know it.
SOCKET = "/run/docker.sock"
DATA = "/var/lib/docker"
PROGRAMS = ("dockerd", "containerd", "runc", "docker", "docker-init")
#: The host's own address on the containers' network.
BRIDGE_ADDRESS = "172.30.0.1"
_CONFIGURATION = "/etc/docker/daemon.json"
_BRIDGE = {"bip": f"{BRIDGE_ADDRESS}/16", "ip6tables": False}


class HostEngine:
    """The engine of one host; its daemon, with the verbs that all daemons have, is `daemon`.

    dockerd that is killed and started again finds its containers running.
    """

    def __init__(self, host: Host) -> None:
        """Define the engine; `start` starts it."""
        self._host = host
        spec = background_daemon(
            "dockerd",
            "root",
            "/var/log/dockerd.log",
            (SOCKET,),
            ("/usr/sbin/dockerd", f"--config-file={_CONFIGURATION}"),
        )
        self.daemon = host.daemons.setdefault(spec.name, Daemon(spec, host))

    @property
    def socket(self) -> Path:
        """Its socket, seen from outside the host."""
        return self._host.path(SOCKET)

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            DaemonError: with the end of its log.
        """
        self._host.path("/etc/docker").mkdir(exist_ok=True)
        configuration = daemon_json(
            data=DATA, socket=SOCKET, pid_file="/run/docker.pid", exec_root="/run/docker",
            init_pid=self._host.init_pid, more=_BRIDGE,
        )  # fmt: skip
        self._host.write(_CONFIGURATION, configuration)
        self.daemon.start()

    def load(self, image: Image) -> None:
        """Make an image known to it, as `image.reference`."""
        self.docker("load", "--quiet", "--input", str(image.archive))

    def docker(self, *argv: str) -> str:
        """Execute Docker's command line tool, with this machine's files, against it; return its output.

        Raises:
            ChildProcessError: with the end of what it said.
        """
        return docker(self.socket, *argv)
