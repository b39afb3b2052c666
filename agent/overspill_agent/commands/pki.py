"""`overspill pki`: the site's certificate authority, for its operator."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import click

from overspill.certificates import key_pem, new_key, signing_request, utc_now, write_file
from overspill.cli.output import json_option, print_json, print_line, print_table
from overspill.errors import ConfigError
from overspill_agent.config import Pki, configured_path, load
from overspill_agent.pki import Authority, Invitations
from overspill_agent.pki.templates import host_names

_MOST_HOURS = 24 * 7


@click.group(short_help="The site's certificate authority.")
def pki() -> None:
    """Make certificates for this site and for the clusters that use it.

    Run it as root on the agent's host. Who has a cluster's certificate can submit as any of that cluster's users whom
    agent.toml maps to an account. Everything renews itself; docs/certificates.md says what to do when a key is lost.

    \b
    Examples:
      overspill pki init --name agent.site-a.example     once
      overspill pki invite mycluster                     prints what the cluster's admin types
      overspill pki list
      overspill pki revoke mycluster                     its key may be in wrong hands
    """


@pki.command()
@click.option("--name", "names", multiple=True, required=True, help="Host name or address of the agent; repeatable.")
@json_option
def init(*, names: tuple[str, ...], as_json: bool) -> None:
    """Make the site's authority and the agent's certificate. Once; it refuses to do it again.

    NAME is how clusters and runners reach the agent, as in the `url` of [runner_channel].

    \b
    Examples:
      overspill pki init --name agent.site-a.example
      overspill pki init --name agent.site-a.example --name 192.0.2.7
    """
    config = _pki()
    Authority(config).create(names, utc_now())
    if as_json:
        print_json({"names": list(names), "directory": str(config.directory)})
        return
    print_line(f"made the authority of this site and the agent's certificate for {', '.join(names)}")
    print_line(f"they are in {config.directory}; keep a copy of ca.key where nobody else can read it")
    print_line("next: start the agent, then overspill pki invite CLUSTER")


@pki.command()
@click.argument("cluster")
@click.option(
    "--hours", type=click.IntRange(1, _MOST_HOURS), default=24, show_default=True, help="How long the code is good for."
)
@json_option
def invite(*, cluster: str, hours: int, as_json: bool) -> None:
    """Print a one-time code, with which CLUSTER gets its certificate.

    CLUSTER is the ClusterName in its slurm.conf. Send the code to the cluster's admin by a way that others cannot read:
    whoever uses it first is the cluster. A cluster whose router and relay are on two hosts needs a code for each.

    \b
    Examples:
      overspill pki invite mycluster
      overspill pki invite mycluster --hours 2 --json | jq -r .code
    """
    _check_is_used()
    now = utc_now()
    code = Invitations(Authority(_pki())).invite(cluster, now, timedelta(hours=hours))
    expires_at = now + timedelta(hours=hours)
    address = _enrolment_address()
    if as_json:
        answer = {"cluster": cluster, "code": str(code), "address": address, "expires_at": _time(expires_at)}
        print_json(answer)
        return
    print_line(f"good once, until {_time(expires_at)}; on the host of {cluster}'s sidecar, as root:")
    print_line()
    print_line(f"  overspill enroll {address} {code}")


@pki.command(short_help="Make a key and a certificate for a cluster by hand.")
@click.argument("cluster")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where to; by default a directory of the cluster's name, here.",
)
@json_option
def issue(*, cluster: str, out: Path | None, as_json: bool) -> None:
    """Make a key and a certificate for CLUSTER by hand, where it cannot reach the agent to enroll.

    The files hold a secret: carry them to the cluster's /var/lib/overspill/pki/SITE yourself, then delete them
    here. `overspill pki invite` is better: there the key never leaves the cluster.

    \b
    Example:
      overspill pki issue mycluster --out /root/mycluster
    """
    authority, key = Authority(_pki()), new_key()
    directory = out or Path(cluster)
    certificate = authority.issue_to_cluster(cluster, signing_request(key), utc_now(), how="issue")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(directory / "ca.pem", authority.ca_pem, mode=0o644)
        write_file(directory / "cluster.pem", key_pem(key) + certificate)
    except OSError as error:
        raise ConfigError(f"cannot write {directory}: {error.strerror}") from error
    if as_json:
        print_json({"cluster": cluster, "directory": str(directory)})
        return
    print_line(f"made {directory}/cluster.pem and {directory}/ca.pem for {cluster}")
    print_line(f"next: put both into /var/lib/overspill/pki/SITE there, as SlurmUser's; delete {directory}")


@pki.command()
@click.option("--name", "names", multiple=True, help="Have it be for these names instead; repeatable.")
@json_option
def renew(*, names: tuple[str, ...], as_json: bool) -> None:
    """Give the agent a new key and certificate now. The agent does so by itself in good time.

    A running agent uses it for new connections at once; no run notices.

    \b
    Examples:
      overspill pki renew
      overspill pki renew --name agent.site-a.example --name agent-new.site-a.example
    """
    authority = Authority(_pki())
    chosen = list(names) or host_names(authority.agent_certificate())
    certificate = authority.issue_to_agent(chosen, utc_now(), how="renew")
    expires_at = _time(certificate.not_valid_after_utc)
    if as_json:
        print_json({"names": chosen, "expires_at": expires_at})
        return
    print_line(f"the agent's certificate for {', '.join(chosen)} is valid until {expires_at}")


@pki.command()
@click.argument("cluster")
@json_option
def revoke(*, cluster: str, as_json: bool) -> None:
    """Have no certificate count any more that CLUSTER has got until now. Its open codes are void, too.

    A running agent refuses the cluster from the next request on. Its runs end when its lease is over, minutes later,
    unless it is let in again before: invite it, and have it enroll.

    \b
    Example:
      overspill pki revoke mycluster && overspill pki invite mycluster
    """
    authority = Authority(_pki())
    # In this order: a code that is redeemed in between is revoked with the rest.
    withdrawn = Invitations(authority).withdraw(cluster)
    authority.revoke(cluster, utc_now())
    is_known = any(cluster in each.names for each in authority.issued())
    if as_json:
        print_json({"cluster": cluster, "codes_withdrawn": withdrawn, "was_issued_any": is_known})
        return
    if not is_known:
        print_line(f"this authority has never issued anything to {cluster}: is that the ClusterName in its slurm.conf?")
    print_line(f"the certificates of {cluster} count no more; {withdrawn} of its codes were open and are void")
    print_line(f"next: overspill pki invite {cluster}, or remove [accounts.{cluster}] from agent.toml")


@pki.command("list")
@json_option
def list_command(*, as_json: bool) -> None:
    """Show what was issued, which codes are open, and who is revoked.

    \b
    Examples:
      overspill pki list
      overspill pki list --json | jq '.certificates[] | select(.how == "enroll")'
    """
    authority, now = Authority(_pki()), utc_now()
    certificates = authority.issued()
    invitations = Invitations(authority).open_invitations(now)
    revoked = authority.revocations()
    if as_json:
        print_json(
            {
                "certificates": [asdict(each) for each in certificates],
                "invitations": [
                    {"cluster": each.cluster, "expires_at": _time(each.expires_at), "tries": each.tries}
                    for each in invitations
                ],
                "revoked": [{"cluster": name, "until": _time(at)} for name, at in revoked.items()],
            }
        )
        return
    latest = {tuple(each.names): each for each in certificates}
    rows = [(", ".join(each.names), each.how, each.issued_at, each.expires_at) for each in latest.values()]
    print_table(["FOR", "BY", "ISSUED", "VALID UNTIL"], rows)
    for invitation in invitations:
        print_line(f"code for {invitation.cluster}, good until {_time(invitation.expires_at)}")
    for name, at in revoked.items():
        print_line(f"{name}: revoked what was issued until {_time(at)}")


def _pki() -> Pki:
    """Return the section of agent.toml, or its defaults where that is not written yet."""
    path = configured_path()
    return load(path).pki if path.exists() else Pki()


def _check_is_used() -> None:
    """Hand out no code for certificates that the agent would not take.

    Raises:
        ConfigError: agent.toml names the files of another authority for the service of the clusters.
    """
    path = configured_path()
    if path.exists() and load(path).server.tls is not None:
        raise ConfigError(
            f"{path} has `tls` in [server], so the agent takes certificates of that authority only:"
            " have the cluster's made there, or remove that line, restart the agent, and invite"
        )


def _enrolment_address() -> str:
    """Return host:port of the service where codes are redeemed."""
    path = configured_path()
    if not path.exists():
        return "HOST:7444"
    url = urlsplit(load(path).runner_channel.url)
    return f"{url.hostname if ':' not in (url.hostname or '') else f'[{url.hostname}]'}:{url.port or 443}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
