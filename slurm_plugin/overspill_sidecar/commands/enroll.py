"""`overspill enroll`: from a site's one-time code to this cluster's certificate."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import click

from overspill.certificates import read_certificates
from overspill.cli.output import json_option, print_json, print_line
from overspill.enrolment import Code
from overspill.errors import ConfigError, InvalidRequestError
from overspill_sidecar.config import STATE_DIRECTORY, SiteConfig, configured_path, load
from overspill_sidecar.enrolled import Enrolled
from overspill_sidecar.sites.enrolment import Enrolment, redeem

_SLURM_USER = "slurm"


@click.command(short_help="Get this cluster's certificate with a one-time code.")
@click.argument("address", metavar="HOST:PORT")
@click.argument("code")
@click.option("--site", "site_name", default=None, help="The site's name in sidecar.toml; needless if it has one site.")
@click.option("--owner", default=None, help="SlurmUser, whose the files are to be.  [default: slurm, if run as root]")
@json_option
def enroll(*, address: str, code: str, site_name: str | None, owner: str | None, as_json: bool) -> None:
    """Get this cluster's certificate for a site, with a one-time code of the site's operator.

    Run it on the sidecar's host, as root or as SlurmUser; if router and relay are on two hosts, on each, with a code of
    its own. HOST:PORT and CODE are as `overspill pki invite` printed them at the site. The key is made here and stays
    here. The sidecar renews the certificate by itself from then on; a running one uses the new files at once.

    \b
    Examples:
      overspill enroll agent.site-a.example:7444 ovs1-...
      overspill enroll agent.site-a.example:7444 ovs1-... --site site-a
    """
    parsed = Code.parse(code)
    host, port = _split(address)
    name, enrolled = _destination(site_name)
    uid_gid = _owner(owner)
    _prepare(enrolled.directory, uid_gid)
    enrolment = redeem(host, port, parsed)
    try:
        enrolled.write(
            certificate=enrolment.certificate, private_key=enrolment.private_key, ca=enrolment.ca, owner=uid_gid
        )
    except OSError as error:
        raise ConfigError(f"cannot write {enrolled.directory}: {error.strerror}; ask for another code") from error
    _tell(name, host, enrolled, enrolment, as_json=as_json)


def _tell(name: str, host: str, enrolled: Enrolled, enrolment: Enrolment, *, as_json: bool) -> None:
    expires_at = read_certificates(enrolment.certificate)[0].not_valid_after_utc
    if as_json:
        print_json(
            {
                "site": name,
                "slurm_cluster": enrolment.slurm_cluster,
                "directory": str(enrolled.directory),
                "expires_at": f"{expires_at:%Y-%m-%dT%H:%M:%SZ}",
            }
        )
        return
    print_line(f"this host now is cluster {enrolment.slurm_cluster} at {name}, which must be slurm.conf's ClusterName")
    print_line(f"the certificate is in {enrolled.directory}; the sidecar renews it before {expires_at:%F %T} UTC")
    path = configured_path()
    if path.exists() and name in {site.name for site in load(path).sites}:
        print_line("next: overspill check")
        return
    print_line(f"next: add the site to {path}, then overspill check:")
    print_line()
    print_line("[[sites]]")
    print_line(f'name = "{name}"')
    print_line('partition = "overspill"')
    print_line(f'agent = "{host}:7443"')


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("https://").rstrip("/").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InvalidRequestError(f"{address!r} is no HOST:PORT; write it as `overspill pki invite` printed it")
    return host.strip("[]"), int(port)


def _destination(site_name: str | None) -> tuple[str, Enrolled]:
    """Return the site's name and the directory that the sidecar looks into.

    Raises:
        InvalidRequestError: nobody says which site it is.
        ConfigError: sidecar.toml cannot be read, or names files that are not ours to make.
    """
    path = configured_path()
    sites = {site.name: site for site in load(path).sites} if path.exists() else {}
    if site_name is None and len(sites) != 1:
        known = f"; {path} has {', '.join(sites)}" if sites else ""
        raise InvalidRequestError(f"say which site it is: --site NAME{known}")
    name = site_name or next(iter(sites))
    site = sites.get(name)
    if site is None:
        _check_name(name)
        return name, Enrolled(STATE_DIRECTORY / name)
    if site.enrolled is None:
        raise ConfigError(f"{path} names other files for {name}: remove its tls line, then enroll")
    return name, site.enrolled


def _check_name(name: str) -> None:
    try:
        SiteConfig(name=name, partition="overspill", agent="host:1")
    except ValueError as error:
        raise InvalidRequestError(
            f"{name!r} is no name for a site: lower-case letters, digits, `.`, `_`, `-`"
        ) from error


def _owner(name: str | None) -> tuple[int, int] | None:
    """Return whose the files are to be; None is whoever we are."""
    if os.geteuid() != 0:
        if name is not None:
            raise InvalidRequestError("only root can make files for somebody else; leave --owner out")
        return None
    try:
        entry = pwd.getpwnam(name or _SLURM_USER)
    except KeyError:
        raise InvalidRequestError(
            f"there is no user {name or _SLURM_USER!r} here; name SlurmUser of slurm.conf with --owner"
        ) from None
    return entry.pw_uid, entry.pw_gid


def _prepare(directory: Path, owner: tuple[int, int] | None) -> None:
    """Make the directory, and see that it can be written, before the code is used up.

    Raises:
        ConfigError: it cannot be.
    """
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    try:
        for each in reversed(missing):
            each.mkdir(mode=0o700)
            if owner is not None:
                os.chown(each, *owner)
    except OSError as error:
        raise ConfigError(f"cannot make {directory}: {error.strerror}; run it as root or SlurmUser") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write {directory}; run it as root or SlurmUser")
