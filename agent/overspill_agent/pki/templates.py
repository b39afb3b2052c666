"""The certificates of an authority of ours. Pure, but for the random serial number.

Every extension that RFC 5280 asks for is there, and critical where it must be: Python 3.13 and later check it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from overspill.certificates import BACKDATED, dns_names

CA_LIFE = timedelta(days=3652)
#: Source: https://www.rfc-editor.org/rfc/rfc5280#appendix-A.1 (ub-common-name)
_MOST_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Signing:
    """An authority, as it signs."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey


def authority_certificate(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> x509.Certificate:
    """Return the self-signed certificate of a new authority, which can sign leaves only."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Overspill CA of {name}"[:_MOST_COMMON_NAME])])
    public_key = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = _builder(subject, subject, public_key, now, CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=True), critical=True)
    builder = builder.add_extension(identifier, critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )
    return builder.sign(key, hashes.SHA256())


def cluster_certificate(
    ca: Signing, key: CertificatePublicKeyTypes, cluster: str, now: datetime, life: timedelta
) -> x509.Certificate:
    """Return a cluster's certificate, which is good for clients only."""
    names = [x509.DNSName(cluster)]
    return _leaf(ca, key, names, ExtendedKeyUsageOID.CLIENT_AUTH, now, life)


def agent_certificate(
    ca: Signing, key: CertificatePublicKeyTypes, names: Sequence[str], now: datetime, life: timedelta
) -> x509.Certificate:
    """Return the agent's certificate, which is good for servers only; `names` are host names and IP addresses."""
    return _leaf(ca, key, list(map(_general_name, names)), ExtendedKeyUsageOID.SERVER_AUTH, now, life)


def host_names(certificate: x509.Certificate) -> list[str]:
    """Return the host names and IP addresses that an agent's certificate is for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*sorted(dns_names(certificate)), *map(str, found.get_values_for_type(x509.IPAddress))]


def _leaf(
    ca: Signing,
    key: CertificatePublicKeyTypes,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
    life: timedelta,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(names[0].value)[:_MOST_COMMON_NAME])])
    builder = _builder(subject, ca.certificate.subject, key, now, life)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    issuer = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
    )
    return builder.sign(ca.private_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer_name=issuer, subject_name=subject, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - BACKDATED).not_valid_after(now + life)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
