"""The network between the two hosts: one veth pair that exists in their namespaces only."""

from __future__ import annotations

import subprocess

from tests.rig.host import Host
from tests.rig.overspill_conf import RUNNER_PORT
from tests.rig.tree import ADDRESSES

_INTERFACE = "net0"
_DROP_INCOMING = ("INPUT", "--in-interface", _INTERFACE, "--jump", "DROP")


class Network:
    """The link between cluster and site. What runs on either host alone never notices a cut."""

    def __init__(self, cluster: Host, site: Host) -> None:
        self._hosts = (cluster, site)

    def connect(self) -> None:
        """Lay the cable and give both ends their addresses."""
        ends = [["name", _INTERFACE, "netns", str(host.init_pid)] for host in self._hosts]
        subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
        for host in self._hosts:
            commands = (
                "link set lo up",
                f"address add {ADDRESSES[host.name]}/24 dev {_INTERFACE}",
                f"link set {_INTERFACE} up",
            )
            host.run(["ip", "-batch", "-"], stdin="\n".join(commands), check=True)

    def cut(self) -> None:
        """Lose every packet without a word, as a dead router would: connections hang, nothing is refused."""
        for host in self._hosts:
            host.run(["iptables", "--append", *_DROP_INCOMING], check=True)

    def cut_runners(self) -> None:
        """Lose every packet between the runners and the agent: both on the site's host, or one in a container there."""
        not_the_cable = ("INPUT", "!", "--in-interface", _INTERFACE, "--protocol", "tcp")
        for end in ("--dport", "--sport"):
            rule = (*not_the_cable, end, str(RUNNER_PORT), "--jump", "DROP")
            self._hosts[1].run(["iptables", "--append", *rule], check=True)

    def unplug(self) -> None:
        """Take the link down: sending fails at once with `Network is unreachable`."""
        self._set_link("down")

    def heal(self) -> None:
        """Undo every `cut`, `cut_runners` and `unplug`."""
        for host in self._hosts:
            host.run(["iptables", "--flush", "INPUT"], check=True)
        self._set_link("up")

    def _set_link(self, state: str) -> None:
        for host in self._hosts:
            host.run(["ip", "link", "set", _INTERFACE, state], check=True)
