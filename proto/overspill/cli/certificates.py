"""What `overspill check` says of the PEM files of one end of a connection."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from overspill.certificates import is_issued_by
from overspill.cli.finding import Finding, error, ok, warning
from overspill.tls import TlsFiles

_SOON = timedelta(days=14)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_certificates(subject: str, files: TlsFiles, names: Collection[str], owners: Collection[int]) -> list[Finding]:
    """Return what is wrong with the files, or that nothing is.

    Args:
        subject: begins each finding's subject.
        files: the PEM files.
        names: DNS names or addresses of which the certificate must have one; empty: any will do.
        owners: the uids whose the private key may be.
    """
    return list(_check(subject, files, names, owners, datetime.now(UTC)))


def _check(
    subject: str, files: TlsFiles, names: Collection[str], owners: Collection[int], now: datetime
) -> Iterator[Finding]:
    if unseen := [path for path in (files.private_key, files.certificate, files.ca) if _is_closed_to_us(path)]:
        what = f"cannot be looked at: we may not read {', '.join(map(str, dict.fromkeys(unseen)))}"
        yield warning(f"{subject}: certificate", what, "run overspill check as root")
        return
    yield from _check_key_file(subject, files.private_key, owners)
    try:
        leaf = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0]
        authorities = x509.load_pem_x509_certificates(files.ca.read_bytes())
    except OSError as failure:
        what = f"cannot read {failure.filename}: {failure.strerror}"
        yield error(
            f"{subject}: certificate",
            what,
            "correct the path; or overspill enroll at the cluster, overspill pki init at the site",
        )
        return
    except ValueError as failure:
        what = f"{files.certificate} or {files.ca} is no PEM certificate: {failure}"
        yield error(f"{subject}: certificate", what, "put the file back, or get another: overspill enroll, pki renew")
        return
    yield _lifetime(subject, files.certificate, leaf, now)
    yield _names(subject, files.certificate, leaf, names)
    if not any(is_issued_by(leaf, authority) for authority in authorities):
        what = f"{files.certificate} is not signed by {files.ca}"
        yield error(f"{subject}: CA", what, "put the CA of the site here, or have the certificate issued by it")
    yield from _check_pair(subject, files, leaf)


def _is_closed_to_us(path: Path) -> bool:
    try:
        with path.open("rb"):
            return False
    except PermissionError:
        return True
    except OSError:
        return False


def _check_key_file(subject: str, path: Path, owners: Collection[int]) -> Iterator[Finding]:
    try:
        status = path.stat()
    except OSError as failure:
        yield error(f"{subject}: private key", f"cannot look at {path}: {failure.strerror}", "correct the path")
        return
    if status.st_mode & _OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        yield error(f"{subject}: private key", f"{path} is open to others (mode {mode:04o})", f"chmod 600 {path}")
    elif status.st_uid not in owners:
        uids = " or ".join(map(str, sorted(owners)))
        what = f"{path} belongs to uid {status.st_uid}, the daemon is uid {uids}"
        yield error(f"{subject}: private key", what, "chown it to the user that the daemon runs as")
    else:
        yield ok(f"{subject}: private key", f"{path} is its daemon's alone")


def _lifetime(subject: str, path: Path, leaf: x509.Certificate, now: datetime) -> Finding:
    where, begins, ends = f"{subject}: certificate", leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < begins:
        return error(where, f"{path} is valid only from {begins:%Y-%m-%d %H:%M} UTC", "is this host's clock right?")
    if now >= ends:
        return error(
            where,
            f"{path} has expired on {ends:%Y-%m-%d %H:%M} UTC",
            "overspill enroll at the cluster, overspill pki renew at the site",
        )
    days = (ends - now).days
    if ends - now < min(_SOON, (ends - begins) / 6):
        return warning(where, f"{path} expires in {days} days", "it should have been renewed by now; see the log")
    return ok(where, f"{path} is valid for {days} more days")


def _names(subject: str, path: Path, leaf: x509.Certificate, wanted: Collection[str]) -> Finding:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        addresses = map(str, extension.value.get_values_for_type(x509.IPAddress))
        found = [*extension.value.get_values_for_type(x509.DNSName), *addresses]
    except x509.ExtensionNotFound:
        found = []
    shown = ", ".join(found) or "nobody"
    if wanted and not set(wanted) & set(found):
        what = f"{path} is for {shown}, not for {' or '.join(wanted)}"
        return error(f"{subject}: certificate's name", what, "have one issued with that DNS name")
    return ok(f"{subject}: certificate's name", f"it is for {shown}")


def _check_pair(subject: str, files: TlsFiles, leaf: x509.Certificate) -> Iterator[Finding]:
    try:
        key = serialization.load_pem_private_key(files.private_key.read_bytes(), None)
    except OSError:
        return
    except (ValueError, TypeError) as failure:
        what = f"{files.private_key} is no private key in PEM: {failure}"
        yield error(f"{subject}: private key", what, "put the file back, or get another: overspill enroll, pki renew")
        return
    if key.public_key() != leaf.public_key():
        what = f"{files.private_key} is not the key of {files.certificate}"
        yield error(f"{subject}: private key", what, "put the two that belong together in place")
