"""The rig's certificate authority: what both ends show each other, and what a test shows to be refused."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class PemPair:
    """A certificate with its private key, both PEM."""

    certificate: bytes
    private_key: bytes


class Certificates:
    """A certificate authority kept in a directory (`ca.crt`, `ca.key`)."""

    def __init__(self, directory: Path) -> None:
        """Read the authority in `directory`, or found one there."""
        certificate, key = directory / "ca.crt", directory / "ca.key"
        if certificate.exists():
            self._ca = trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
        else:
            self._ca = trustme.CA()
            directory.mkdir(parents=True, exist_ok=True)
            certificate.write_bytes(self.ca_certificate)
            key.touch(mode=0o600)
            key.write_bytes(self._ca.private_key_pem.bytes())

    @property
    def ca_certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._ca.cert_pem.bytes()

    def issue(self, dns_name: str, *, is_expired: bool = False, is_foreign: bool = False) -> PemPair:
        """Issue a certificate for `dns_name`, good for clients and servers.

        Args:
            dns_name: the subject alternative name; in a client's certificate, the Slurm cluster's name.
            is_expired: its life ended an hour ago.
            is_foreign: it is signed by another authority, which nobody trusts.
        """
        ca = trustme.CA() if is_foreign else self._ca
        now = dt.datetime.now(dt.UTC)
        life = dt.timedelta(days=-2), dt.timedelta(hours=-1) if is_expired else dt.timedelta(days=30)
        leaf = ca.issue_cert(dns_name, not_before=now + life[0], not_after=now + life[1])
        return PemPair(b"".join(pem.bytes() for pem in leaf.cert_chain_pems), leaf.private_key_pem.bytes())
