"""X.509 as both sides need it: keys, requests, what a certificate says, and what is wrong with one."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from overspill.errors import ConfigError

#: By how much the clocks of two hosts may differ.
CLOCK_SKEW = timedelta(minutes=10)
#: By how much our authorities backdate, so that a certificate is valid at once for a host whose clock is behind.
BACKDATED = timedelta(minutes=15)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key, of the kind that every TLS library takes and that claims are signed with."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the private key as PKCS #8, PEM, without a passphrase: daemons read it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a PKCS #10 request, PEM, that says nothing but the public key: whoever signs knows who asks."""
    request = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """Return all certificates in `pem`, at least one; other blocks are passed over.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"not a certificate in PEM: {error}") from error


def dns_names(certificate: x509.Certificate) -> frozenset[str]:
    """Return the DNS names that the certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(names.get_values_for_type(x509.DNSName))


def fingerprint(certificate: x509.Certificate) -> bytes:
    """Return its SHA-256, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def is_renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Tell whether two thirds of the life of a certificate of ours are over."""
    return now >= renewal_due_at(certificate)


def renewal_due_at(certificate: x509.Certificate) -> datetime:
    """Return when two thirds of the life of a certificate of ours are over."""
    issued_at = certificate.not_valid_before_utc + BACKDATED
    return issued_at + (certificate.not_valid_after_utc - issued_at) * 2 / 3


def check_pair(certificate: bytes, private_key: bytes) -> x509.Certificate:
    """Return the certificate, of which `private_key` is the key; both PEM.

    Raises:
        ConfigError: one cannot be read, or they do not belong together, as while somebody replaces them.
    """
    leaf = read_certificates(certificate)[0]
    try:
        key = serialization.load_pem_private_key(private_key, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"not a private key in PEM without a passphrase: {error}") from error
    if key.public_key() != leaf.public_key():
        raise ConfigError("the private key is not the certificate's")
    return leaf


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def write_file(path: Path, content: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Put a file in place in one step, durably; nobody but its owner can ever read a secret in it.

    Args:
        path: where; its directory exists.
        content: what.
        mode: its permissions.
        owner: uid and gid, by default ours.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def utc_now() -> datetime:
    return datetime.now(UTC)
