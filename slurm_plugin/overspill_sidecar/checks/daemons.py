"""Router, relay and the ways to the agents."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from overspill import __version__
from overspill.cli.finding import Finding, error, ok, warning
from overspill.cli.output import duration
from overspill.errors import NotPermittedError, OverspillError
from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.commands.daemons import Daemons
from overspill_sidecar.config import SidecarConfig, SiteConfig

_CONNECT_S = 5.0
#: Beyond it certificates are refused and times in the records mislead.
_MOST_SKEW_MS = 5_000
_StatusT = TypeVar("_StatusT", pb.RouterStatusResponse, pb.RelayStatusResponse)


def look(config: SidecarConfig) -> Generator[Finding, None, Mapping[str, pb.SiteStatus]]:
    """Look at both roles and at each site; return what the daemons say of the sites, by name."""
    asked = Daemons.of(config)
    router = yield from _look_at("router", config.router.socket, 0o600, asked.router_status)
    relay = yield from _look_at("relay", config.relay.socket, 0o666, asked.relay_status)
    if router is not None:
        yield from _look_at_queue(router)
    seen = router or relay
    contacts = {site.name: site for site in seen.sites} if seen else {}
    for site in config.sites:
        yield from _look_at_site(site, contacts.get(site.name))
    return contacts


def _look_at(
    role: str, path: Path, mode: int, ask: Callable[[], _StatusT]
) -> Generator[Finding, None, _StatusT | None]:
    """Look at one role's socket, version and records; return its status if it answers."""
    remedy = f"systemctl status overspill-{role}; if it belongs on another host, ignore this"
    if not path.exists():
        yield error(role, f"it is not running on this host: {path} is not there", f"{remedy}; else start it")
        return None
    found = path.lstat().st_mode
    if not stat.S_ISSOCK(found) or stat.S_IMODE(found) != mode:
        yield error(f"{role}: socket", f"{path} has mode {stat.S_IMODE(found):04o}, not {mode:04o}", f"restart {role}")
    try:
        status = ask()
    except NotPermittedError as failure:
        yield warning(role, f"cannot be asked: {failure.reason}", "run overspill check as root")
        return None
    except OverspillError as failure:
        yield error(role, failure.reason, f"systemctl restart overspill-{role}; then see its log")
        return None
    if status.version != __version__:
        what = f"it runs version {status.version}, installed is {__version__}"
        yield warning(f"{role}: version", what, f"systemctl restart overspill-{role}: no job is lost")
    if status.records_problem:
        remedy = f"let SlurmUser write there: see [{role}] records in sidecar.toml"
        yield warning(f"{role}: records", f"they are in memory only: {status.records_problem}", remedy)
    yield ok(role, f"it answers on {path}, version {status.version}")
    return status


def _look_at_queue(router: pb.RouterStatusResponse) -> Iterator[Finding]:
    if router.is_queue_fresh:
        read = f", read by {router.queue_reader}" if router.queue_reader else ""
        yield ok("router: queue", f"its picture of the queue is {duration(router.queue_age_s)} old{read}")
    else:
        what = "it has no fresh picture of the queue, so all jobs run locally"
        yield error("router: queue", what, "its log says why (action slurm_unreachable): can SlurmUser run squeue?")


def _look_at_site(site: SiteConfig, contact: pb.SiteStatus | None) -> Iterator[Finding]:
    subject = f"site {site.name}"
    if contact is not None and contact.is_reachable:
        yield from _look_at_contact(subject, contact)
        return
    if not os.access(site.tls_files.private_key, os.R_OK):
        yield warning(f"{subject}: agent", "cannot be tried: we may not read our key", "run overspill check as root")
    elif problem := _why_unreachable(site):
        what, remedy = problem
        yield error(f"{subject}: agent", what, remedy)
    elif contact is not None:
        what = f"{site.agent} answers, but refuses us: {contact.reason}"
        remedy = "its operator maps clusters and users in agent.toml; the certificate's name must be the ClusterName"
        yield error(f"{subject}: agent", what, remedy)
    else:
        yield ok(f"{subject}: agent", f"{site.agent} takes a TLS connection with our certificate")


def _look_at_contact(subject: str, contact: pb.SiteStatus) -> Iterator[Finding]:
    size = f"{contact.total_cpus} CPUs, {contact.total_memory_mib} MiB for us, {contact.free_cpus} CPUs free"
    yield ok(f"{subject}: agent", f"{contact.agent} answers and takes us; {size}")
    if contact.total_cpus == 0:
        yield error(f"{subject}: capacity", "it offers nothing to this cluster", "ask its operator")
    if contact.HasField("clock_skew_ms") and abs(contact.clock_skew_ms) > _MOST_SKEW_MS:
        how = "ahead of" if contact.clock_skew_ms > 0 else "behind"
        what = f"the agent's clock is {duration(abs(contact.clock_skew_ms) / 1000)} {how} ours"
        yield error(f"{subject}: clock", what, "run NTP on both hosts: certificates and signed claims have times")
    elif contact.HasField("clock_skew_ms"):
        yield ok(f"{subject}: clock", f"it differs from ours by {abs(contact.clock_skew_ms)} ms at most")
    if contact.version and contact.version.split(".")[:2] != __version__.split(".")[:2]:
        what = f"the agent is version {contact.version}, we are {__version__}"
        yield warning(f"{subject}: version", what, "keep both sides at the same minor version")


def _why_unreachable(site: SiteConfig) -> tuple[str, str] | None:
    """Connect as the daemons do; return what is wrong and what to do, None if nothing is."""
    host, _, port = site.agent.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(site.tls_files.ca))
        context.load_cert_chain(site.tls_files.certificate, site.tls_files.private_key)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return None
    except socket.gaierror as failure:
        return f"{host} has no address here: {failure.strerror}", "correct agent in sidecar.toml, or DNS"
    except TimeoutError:
        return (
            f"{site.agent} does not answer within {_CONNECT_S:.0f} s",
            "is a firewall in between? outgoing TCP is needed",
        )
    except ConnectionRefusedError:
        return (
            f"nobody listens on {site.agent}",
            "ask the site's operator to start overspill-agent; or correct the port",
        )
    except ssl.SSLCertVerificationError as failure:
        return (
            f"its certificate is refused: {failure.verify_message}",
            "use the site's CA and the name it is issued for",
        )
    except (OSError, ValueError) as failure:
        return f"no TLS connection to {site.agent}: {failure}", "see the findings about certificates, on both sides"
