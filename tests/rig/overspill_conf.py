"""Configuration of the sidecar and the agent inside the rig."""

from __future__ import annotations

from tests.rig.accounts import USERS
from tests.rig.slurm_conf import ClusterOptions
from tests.rig.tree import ADDRESSES

AGENT_PORT = 7443
RUNNER_PORT = 7444
SECOND_AGENT_PORT = 7445
SECOND_RUNNER_PORT = 7446
ROUTER_SOCKET = "/run/overspill/router.sock"
RELAY_SOCKET = "/run/overspill/relay.sock"
SIDECAR_CONF = "/etc/overspill/sidecar.toml"
AGENT_CONF = "/etc/overspill/agent.toml"
#: Each on its own host's loopback; the relay's is used where it is a process of its own.
SIDECAR_METRICS_PORT = 9465
RELAY_METRICS_PORT = 9466
AGENT_METRICS_PORT = 9467
SECOND_AGENT_METRICS_PORT = 9468
SECOND_AGENT_CONF = "/etc/overspill/agent-b.toml"
#: The site's authority, of which both agents have their certificate.
SITE_PKI = "/var/lib/overspill-agent/pki"
#: What the cluster has of each site, as `overspill enroll` puts it.
CLUSTER_PKI = "/var/lib/overspill/pki"
SITES = ("site-a", "site-b")


def sidecar_toml(cluster: ClusterOptions) -> str:
    """Return sidecar.toml; it asks Slurm more often than in production, so that tests wait less."""
    sites = zip(SITES, (AGENT_PORT, SECOND_AGENT_PORT), cluster.virtual_nodes.items(), strict=False)
    sections = "".join(_site_section(name, port, *where) for name, port, where in sites)
    return f"""\
[slurm]
refresh_s = 1.0
accounting_refresh_s = 1.0

[router]
socket = "{ROUTER_SOCKET}"
late_every_s = {cluster.late_every_s}

[relay]
socket = "{RELAY_SOCKET}"
unreachable_grace_s = 5.0
reconcile_s = 30.0

[metrics]
listen = "127.0.0.1:{SIDECAR_METRICS_PORT}"
relay_listen = "127.0.0.1:{RELAY_METRICS_PORT}"

[health]
drain_after_s = 5.0
resume_after_s = 1.0
first_pause_s = 10.0

{sections}"""


def _site_section(name: str, port: int, partition: str, node: str) -> str:
    return f"""\
[[sites]]
name = "{name}"
partition = "{partition}"
agent = "site:{port}"
nodes = "{node}"

"""


def agent_toml(back_end: str, *, is_second: bool = False) -> str:
    """Return agent.toml; `back_end` are the sections of the back end, see `back_end_conf`."""
    port, runner_port = (SECOND_AGENT_PORT, SECOND_RUNNER_PORT) if is_second else (AGENT_PORT, RUNNER_PORT)
    accounts = "\n".join(f'"{user.name}" = "{user.name}"' for user in USERS)
    return f"""\
[server]
listen = "0.0.0.0:{port}"

[runner_channel]
listen = "0.0.0.0:{runner_port}"
url = "https://{ADDRESSES["site"]}:{runner_port}"
lease_s = 90

[pki]
directory = "{SITE_PKI}"

[store]
path = "{agent_state(is_second=is_second)}/agent.db"

{back_end}
[metrics]
listen = "127.0.0.1:{SECOND_AGENT_METRICS_PORT if is_second else AGENT_METRICS_PORT}"

[accounts.rig]
{accounts}
"""


def agent_state(*, is_second: bool) -> str:
    """Return the directory of all that an agent keeps."""
    return "/var/lib/overspill-agent-b" if is_second else "/var/lib/overspill-agent"
