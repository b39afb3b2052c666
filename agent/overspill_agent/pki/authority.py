"""A site's authority, in a directory of the agent's own.

ca.pem          the authority's certificate, which everybody may have
ca.key          its private key: who has it can speak for every cluster
agent.pem       the agent's certificate and key, in one file so that both are replaced in one step
issued.jsonl    one line for each certificate that was issued
revoked.json    clusters whose certificates up to a moment count no more
issuing.lock    held while a certificate is renewed or revoked
invitations/    see `invitations`
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from overspill.certificates import (
    BACKDATED,
    is_renewal_due,
    key_pem,
    new_key,
    read_certificates,
    write_file,
)
from overspill.errors import ConfigError, InvalidRequestError
from overspill_agent.config import Pki
from overspill_agent.pki.templates import (
    Signing,
    agent_certificate,
    authority_certificate,
    cluster_certificate,
    host_names,
)

#: ClusterName of slurm.conf, as far as it can be a name in a certificate.
_CLUSTER = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")
_MOST_REQUEST_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate that was issued: `how` is "init", "issue", "enroll" or "renew"."""

    serial: str
    names: list[str]
    how: str
    issued_at: str
    expires_at: str


class Authority:
    """Issues certificates. Safe to use from several processes: every file is replaced in one step."""

    def __init__(self, config: Pki) -> None:
        """Represent the authority in `config.directory`, be it there or not."""
        self.directory = config.directory
        self._agent_pem = config.agent_files.certificate
        self.life = timedelta(seconds=config.certificate_life_s)

    @property
    def exists(self) -> bool:
        return (self.directory / "ca.key").exists()

    @property
    def ca_pem(self) -> bytes:
        """The authority's certificate.

        Raises:
            ConfigError: there is none.
        """
        return self._read("ca.pem")

    def create(self, names: Sequence[str], now: datetime) -> None:
        """Make the authority and the agent's first certificate.

        Args:
            names: host names and addresses by which clusters and runners reach the agent.
            now: the time of issue.

        Raises:
            ConfigError: there is one already, a name makes no sense, or the directory cannot be written.
        """
        _check_hosts(names)
        if self.exists:
            raise ConfigError(
                f"{self.directory} holds an authority already, and every cluster's certificate is of it;"
                " to begin anew move the directory away, then invite every cluster again"
            )
        key = new_key()
        certificate = authority_certificate(key, names[0], now)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self.directory / "ca.pem", _pem(certificate), mode=0o644)
            write_file(self.directory / "ca.key", key_pem(key))
        except OSError as error:
            raise ConfigError(f"cannot write {self.directory}: {error.strerror}") from error
        self.issue_to_agent(names, now, how="init")

    def issue_to_agent(self, names: Sequence[str], now: datetime, how: str) -> x509.Certificate:
        """Give the agent a new key and certificate for `names`. A running agent shows them from the next handshake on.

        Raises:
            ConfigError: a name makes no sense, or the authority cannot be read or its directory not be written.
        """
        _check_hosts(names)
        key = new_key()
        certificate = agent_certificate(self._signing(), key.public_key(), names, now, self.life)
        self._note(certificate, list(names), how, now)
        write_file(self._agent_pem, key_pem(key) + _pem(certificate))
        return certificate

    def agent_certificate(self) -> x509.Certificate:
        """Return what the agent shows now.

        Raises:
            ConfigError: there is none.
        """
        return read_certificates(self._read(self._agent_pem.name))[0]

    def renew_agent_if_due(self, now: datetime) -> x509.Certificate | None:
        """Give the agent its next certificate if that is due; return it, None if it is not.

        Raises:
            ConfigError: as for `issue_to_agent`.
        """
        current = self.agent_certificate()
        if not is_renewal_due(current, now):
            return None
        return self.issue_to_agent(host_names(current), now, how="renew")

    def issue_to_cluster(self, cluster: str, signing_request: bytes, now: datetime, how: str) -> bytes:
        """Return a certificate, PEM, for the key in a request; everything else in the request is passed over.

        Raises:
            InvalidRequestError: the name or the request makes no sense.
            ConfigError: the authority cannot be read or its directory not be written.
        """
        check_cluster(cluster)
        certificate = cluster_certificate(self._signing(), _requested_key(signing_request), cluster, now, self.life)
        self._note(certificate, [cluster], how, now)
        return _pem(certificate)

    def renew_for_cluster(
        self, cluster: str, signing_request: bytes, now: datetime, check: Callable[[], object]
    ) -> bytes:
        """Return the next certificate of a caller who has shown one, PEM; no revocation comes in between.

        Args:
            cluster: whose.
            signing_request: as for `issue_to_cluster`.
            now: the time of issue.
            check: raises if the certificate that was shown does not count.

        Raises:
            InvalidRequestError, ConfigError: as for `issue_to_cluster`.
        """
        with self._alone():
            check()
            return self.issue_to_cluster(cluster, signing_request, now, how="renew")

    def issued(self) -> list[Issued]:
        """Return everything that was issued, oldest first, but for a line that a crash has cut short.

        Raises:
            ConfigError: it cannot be read.
        """
        lines = self._read("issued.jsonl").splitlines()
        return [issued for line in lines if (issued := _issued(line)) is not None]

    def revoke(self, cluster: str, now: datetime) -> None:
        """Have no certificate that the cluster was issued until now count any more.

        Raises:
            InvalidRequestError: the name makes no sense.
            ConfigError: the authority cannot be read.
        """
        check_cluster(cluster)
        self._read("ca.pem")
        with self._alone():
            # What was renewed while we waited, by somebody who has the key, is of a later moment than `now`.
            theirs = [datetime.fromisoformat(each.issued_at) for each in self.issued() if cluster in each.names]
            at = max([now, *theirs])
            revoked = {name: at.timestamp() for name, at in self.revocations().items()} | {cluster: at.timestamp()}
            write_file(self.directory / "revoked.json", json.dumps(revoked).encode())

    def revocations(self) -> dict[str, datetime]:
        """Return until when issued certificates do not count, by cluster.

        Raises:
            ConfigError: it cannot be read.
        """
        path = self.directory / "revoked.json"
        if not path.exists():
            return {}
        try:
            found = json.loads(self._read(path.name))
            return {name: datetime.fromtimestamp(at, UTC) for name, at in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error

    def revocations_state(self) -> object:
        """Return what changes when `revocations` does."""
        try:
            stat = (self.directory / "revoked.json").stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            descriptor = os.open(self.directory / "issuing.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write {self.directory}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _signing(self) -> Signing:
        try:
            key = serialization.load_pem_private_key(self._read("ca.key"), None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self.directory / 'ca.key'} is no private key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{self.directory / 'ca.key'} is not an ECDSA key")
        return Signing(read_certificates(self.ca_pem)[0], key)

    def _note(self, certificate: x509.Certificate, names: list[str], how: str, now: datetime) -> None:
        """Write down what is issued before anybody has it."""
        issued = Issued(
            serial=f"{certificate.serial_number:x}",
            names=names,
            how=how,
            issued_at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            expires_at=f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        )
        path = self.directory / "issued.jsonl"
        try:
            path.touch(mode=0o600)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(issued)) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error

    def _read(self, name: str) -> bytes:
        path = self.directory / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}; `overspill pki init` makes it") from error


def _issued(line: bytes) -> Issued | None:
    try:
        return Issued(**json.loads(line))
    except (ValueError, TypeError):
        return None


def issued_at(certificate: x509.Certificate) -> datetime:
    """Return when an authority of ours issued a certificate."""
    return certificate.not_valid_before_utc + BACKDATED


def check_cluster(name: str) -> None:
    """Refuse what cannot be a ClusterName in a certificate.

    Raises:
        InvalidRequestError: says what one looks like.
    """
    if not _CLUSTER.fullmatch(name):
        raise InvalidRequestError(
            f"{name!r} cannot be a cluster's name in a certificate: write its ClusterName of slurm.conf, which is at"
            " most 63 lower-case letters, digits, `.`, `_` and `-`"
        )


def check_signing_request(signing_request: bytes) -> None:
    """Refuse a request that no certificate can be issued for.

    Raises:
        InvalidRequestError: says what is wrong.
    """
    _requested_key(signing_request)


def _check_hosts(names: Sequence[str]) -> None:
    for name in names:
        if not _HOST.fullmatch(name):
            raise ConfigError(f"{name!r} is no host name or address: write it as clusters reach it, without a port")
    if not names:
        raise ConfigError("name the host by which clusters and runners reach the agent")


def _requested_key(signing_request: bytes) -> ec.EllipticCurvePublicKey:
    if len(signing_request) > _MOST_REQUEST_BYTES:
        raise InvalidRequestError("the signing request is too long")
    try:
        request = x509.load_pem_x509_csr(signing_request)
        is_signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(f"the signing request cannot be read: {error}") from error
    if not is_signed or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidRequestError("the signing request must be for an ECDSA key on P-256 and signed with it")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
