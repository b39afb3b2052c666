"""`overspill doctor`: a probe job, sent the whole way."""

from __future__ import annotations

import os
import pwd
from dataclasses import asdict

import click

from overspill.cli.output import duration, json_option, print_json, print_line, styled
from overspill.errors import NotFoundError, NotPermittedError
from overspill_sidecar.commands.cluster import Cluster
from overspill_sidecar.commands.completing import site_names
from overspill_sidecar.commands.probe import Hop, Probe


@click.command(short_help="Send a probe job the whole way and time each hop.")
@click.option(
    "--site",
    help="This site, past the router's choice; else the router chooses, as for any job.",
    shell_complete=site_names,
)
@click.option("--user", help="Whose job the probe is; root must say, and only root may.")
@click.option("--account", help="The account of the probe job, where the cluster wants one.")
@click.option("--timeout", "timeout_s", default=120.0, show_default=True, help="Seconds that one hop may take.")
@json_option
def doctor(*, site: str | None, user: str | None, account: str | None, timeout_s: float, as_json: bool) -> None:
    """Send a tiny job the whole way to a site and back, and time each hop.

    The job has one CPU, ends within seconds and is cancelled if it gets stuck. Root, with --user, sees every hop; a
    user sees those that Slurm and the job itself show. Exit code 1: it stopped at a hop, and what to do is said.

    \b
    Examples:
      overspill doctor
      sudo overspill doctor --user alice --site site-a
      overspill doctor --json
    """
    here = Cluster.here()
    partition = _partition(here, site)
    probe = Probe(here, partition, _account_of(user), account, timeout_s)
    try:
        for hop in probe.run():
            if not as_json:
                _say(hop)
    finally:
        probe.clean_up()
    if as_json:
        print_json({"job_id": probe.job_id, "hops": [_as_json(hop) for hop in probe.hops], "ok": probe.is_well})
    else:
        _summarise(probe)
    raise SystemExit(0 if probe.is_well else 1)


def _partition(here: Cluster, site: str | None) -> str | None:
    """Return the site's partition; None where the router chooses the site."""
    by_name = {name: partition for partition, name in here.site_by_partition.items()}
    if not by_name:
        raise NotFoundError(f"no site is known: {here.problem}")
    if site is None:
        return None
    if site not in by_name:
        raise click.BadParameter(f"there is no site {site!r}: {', '.join(by_name)}", param_hint="--site")
    return by_name[site]


def _account_of(user: str | None) -> pwd.struct_passwd:
    """Return whose job the probe is."""
    if user is None:
        if os.geteuid() == 0:
            raise click.UsageError("root's jobs run at no site: add --user NAME, somebody whom the site has mapped")
        return pwd.getpwuid(os.geteuid())
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise click.BadParameter(f"there is no user {user!r}", param_hint="--user") from None
    if os.geteuid() not in {0, entry.pw_uid}:
        raise NotPermittedError("only root may send another user's job")
    return entry


def _as_json(hop: Hop) -> dict[str, object]:
    return asdict(hop) | {"took_s": None if hop.took_s is None else round(hop.took_s, 4)}


def _say(hop: Hop) -> None:
    if hop.is_reached:
        took = duration(hop.took_s) if hop.took_s is not None else "-"
        print_line(f"  {hop.name:34} {took:>10}  {hop.says}".rstrip())
    else:
        print_line(styled(f"x {hop.name:34} {'':>10}  {hop.says}", "bold red"))
        print_line(f"  -> {hop.remedy}")


def _summarise(probe: Probe) -> None:
    reached = [hop for hop in probe.hops if hop.is_reached and hop.took_s is not None]
    if probe.is_well:
        print_line(styled(f"well: job {probe.job_id} went the whole way in {duration(probe.took_s)}", "green"))
    else:
        print_line(styled(f"it stopped after {len(reached)} hops; overspill check may say more", "yellow"))
