"""Configuration of the sidecar and the agent inside the rig."""

from __future__ import annotations

from tests.rig.accounts import USERS
from tests.rig.slurm_conf import OVERSPILL_PARTITION, VIRTUAL_NODE

AGENT_PORT = 7443
RUNNER_PORT = 7444
ROUTER_SOCKET = "/run/overspill/router.sock"
RELAY_SOCKET = "/run/overspill/relay.sock"
SIDECAR_CONF = "/etc/overspill/sidecar.toml"
AGENT_CONF = "/etc/overspill/agent.toml"
#: Each on its own host's loopback; the relay's is used where it is a process of its own.
SIDECAR_METRICS_PORT = 9465
RELAY_METRICS_PORT = 9466
AGENT_METRICS_PORT = 9467
TLS_DIRECTORY = "/etc/overspill/tls"


def sidecar_toml() -> str:
    """Return sidecar.toml; it asks Slurm more often than in production, so that tests wait less."""
    return f"""\
[slurm]
refresh_s = 1.0

[router]
socket = "{ROUTER_SOCKET}"

[relay]
socket = "{RELAY_SOCKET}"
unreachable_grace_s = 5.0
reconcile_s = 30.0

[metrics]
listen = "127.0.0.1:{SIDECAR_METRICS_PORT}"
relay_listen = "127.0.0.1:{RELAY_METRICS_PORT}"

[health]
drain_after_s = 2.0
resume_after_s = 2.0
first_pause_s = 10.0

[[sites]]
name = "site-a"
partition = "{OVERSPILL_PARTITION}"
agent = "site:{AGENT_PORT}"
nodes = "{VIRTUAL_NODE}"
tls = {_tls("cluster")}
"""


def agent_toml(*, shared_home: bool) -> str:
    """Return agent.toml; with `shared_home` a run sees the cluster's /home instead of an empty private one."""
    private = ["/tmp", "/var/tmp", "/dev/shm"] if shared_home else ["/home", "/tmp", "/var/tmp", "/dev/shm"]
    accounts = "\n".join(f'{user.name} = "{user.name}"' for user in USERS)
    return f"""\
[server]
listen = "0.0.0.0:{AGENT_PORT}"
tls = {_tls("site")}

[runner_channel]
listen = "0.0.0.0:{RUNNER_PORT}"
url = "https://site:{RUNNER_PORT}"
lease_s = 90
tls = {_tls("site")}

[store]
path = "/var/lib/overspill-agent/agent.db"

[local]
directory = "/var/lib/overspill-agent/runs"
cpus = 8
memory_mib = 16384
private = {_strings(private)}
shared = {_strings(["/home"] if shared_home else [])}
python = "/usr/bin/python3"

[metrics]
listen = "127.0.0.1:{AGENT_METRICS_PORT}"

[accounts.rig]
{accounts}
"""


def _tls(name: str) -> str:
    files = {
        "certificate": f"{TLS_DIRECTORY}/{name}.crt",
        "private_key": f"{TLS_DIRECTORY}/{name}.key",
        "ca": f"{TLS_DIRECTORY}/ca.crt",
    }
    return "{ " + ", ".join(f'{key} = "{path}"' for key, path in files.items()) + " }"


def _strings(values: list[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
