"""The directory of one site's certificate, as `overspill enroll` makes it and the sidecar renews it.

cluster.pem     this cluster's certificate for the site, and its key, in one file so that both change in one step
ca.pem          the site's authority
renewing.lock   held by the process that renews: router and relay may be two
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from overspill.certificates import check_pair, read_certificates, write_file
from overspill.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One site's certificate here."""

    directory: Path

    @property
    def files(self) -> TlsFiles:
        cluster = self.directory / "cluster.pem"
        return TlsFiles(certificate=cluster, private_key=cluster, ca=self.directory / "ca.pem")

    @property
    def lock(self) -> Path:
        return self.directory / "renewing.lock"

    def write(self, *, certificate: bytes, private_key: bytes, ca: bytes, owner: tuple[int, int] | None = None) -> None:
        """Put a new certificate in place, once it is seen to be whole; the certificate comes last.

        Args:
            certificate: PEM.
            private_key: PEM.
            ca: PEM.
            owner: uid and gid of the files; ours by default.

        Raises:
            ConfigError: they do not belong together.
            OSError: the directory cannot be written.
        """
        check_pair(certificate, private_key)
        read_certificates(ca)
        if not self.files.ca.exists() or self.files.ca.read_bytes() != ca:
            write_file(self.files.ca, ca, mode=0o644, owner=owner)
        write_file(self.files.certificate, private_key + certificate, owner=owner)
