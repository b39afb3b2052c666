"""TLS 1.3 between a cluster's relay and a site's agent, with certificates that are replaced while it is in use."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import structlog

from overspill import grpc_settings  # noqa: F401 - before gRPC is loaded
from overspill.certificates import check_pair, dns_names, read_certificates
from overspill.errors import ConfigError

# isort: split
import grpc
import grpc.aio
from cryptography import x509

_log = structlog.get_logger(__name__)

#: Scripts go up to 4 MiB and environments have been seen with values of 1 MB; gRPC's default of 4 MiB is too small.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

_COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A half-open connection is found within 10 s: one ping each 5 s, 5 s for its answer.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_CHANNEL_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
_SERVER_OPTIONS = (
    *_COMMON_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
    # gRPC's own two minutes let a stranger without a certificate keep many descriptors.
    ("grpc.server_handshake_timeout_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files held at one moment: three times PEM; the key is the certificate's."""

    certificate: bytes
    private_key: bytes
    ca: bytes

    @property
    def leaf(self) -> x509.Certificate:
        return read_certificates(self.certificate)[0]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end: its certificate with chain, its private key, and the CA that the other end must be of.

    Certificate and key may be one file.
    """

    certificate: Path
    private_key: Path
    ca: Path

    def read(self) -> TlsMaterial:
        """Return what the files hold.

        Raises:
            ConfigError: if one cannot be read or used, or the key is not the certificate's; names the file.
        """
        try:
            certificate, private_key = self.certificate.read_bytes(), self.private_key.read_bytes()
            ca = self.ca.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
        try:
            check_pair(certificate, private_key)
        except ConfigError as error:
            raise ConfigError(f"cannot use {self.certificate} with {self.private_key}: {error.reason}") from error
        try:
            read_certificates(ca)
        except ConfigError as error:
            raise ConfigError(f"cannot use {self.ca}: {error.reason}") from error
        return TlsMaterial(certificate, private_key, ca)

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes when a file is replaced, or gets another owner or mode.

        By the time of change: that of modification may be put back, as by `cp -p` and `rsync -t`.

        Raises:
            OSError: if one is not there.
        """
        stats = [path.stat() for path in (self.certificate, self.private_key, self.ca)]
        return tuple((stat.st_ctime_ns, stat.st_ino, stat.st_size) for stat in stats)


class WatchedTls:
    """Certificates in use, read again when somebody has replaced the files. Calls cost three stat(2).

    Files that cannot be used, as those that are being replaced, change nothing: what was in use stays in use, and each
    call reads them again, because what stood in the way need not show in the files.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            ConfigError: as `TlsFiles.read`.
        """
        self.files = files
        self._state: object = _state_of(files)
        self._current = files.read()
        #: Why the files that are there are not used; empty if they are.
        self._refusal = ""

    def current(self) -> TlsMaterial:
        """Return what is to be used now: the same object for as long as nothing has changed."""
        state = _state_of(self.files)
        if state != self._state:
            self._read_again(state)
        return self._current

    def _read_again(self, state: object) -> None:
        """Use what the files hold now; `state` is from before they are read, so that a change meanwhile is seen."""
        try:
            found = self.files.read()
        except ConfigError as error:
            if error.reason != self._refusal:
                _log.warning("replaced certificate is not used", action="certificate_refused", reason=error.reason)
            self._refusal = error.reason
            return
        self._state, self._refusal = state, ""
        if found == self._current:
            return
        self._current = found
        _log.info(
            "certificate replaced",
            action="certificate_replaced",
            path=str(self.files.certificate),
            expires_at=f"{self._current.leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        )


def _state_of(files: TlsFiles) -> object:
    """Return the files' state; if one is not there, why."""
    try:
        return files.state()
    except OSError as error:
        return str(error)


def open_channel(target: str, tls: TlsMaterial) -> grpc.aio.Channel:
    """Return a channel to the agent at `target` (host:port); it connects, and reconnects, by itself."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca, private_key=tls.private_key, certificate_chain=tls.certificate
    )
    return grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)


def server_credentials(watched: WatchedTls) -> grpc.ServerCredentials:
    """Return credentials for a server that takes only clients with a certificate of the CA in `watched`.

    Each handshake uses the files as they are then; connections that are open stay as they are.
    """
    used = watched.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        current = watched.current()
        if current is used:
            return None
        used = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        fetch,  # type: ignore[arg-type]  # None says that nothing has changed, as gRPC documents and its stubs do not
        require_client_authentication=True,
    )


def _configuration(tls: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.private_key, tls.certificate)], root_certificates=tls.ca)


def https_context(watched: WatchedTls, *, asks_for_certificates: bool = False) -> ssl.SSLContext:
    """Return a context for an HTTPS server; each handshake uses the files as they are then.

    Args:
        watched: our certificate.
        asks_for_certificates: whether only clients with a certificate of its CA are let in.

    Raises:
        ConfigError: if OpenSSL does not take the files.
    """
    used = watched.current()
    context = _https_context(watched.files, asks_for_certificates)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal used, context
        current = watched.current()
        if current is not used:
            try:
                context = _https_context(watched.files, asks_for_certificates)
                used = current
            except ConfigError as error:
                # Replaced again since it was read: the next handshake looks again.
                _log.warning("replaced certificate is not used", action="certificate_refused", reason=error.reason)
        connection.context = context

    context.sni_callback = choose
    return context


def _https_context(files: TlsFiles, asks_for_certificates: bool) -> ssl.SSLContext:  # noqa: FBT001 - of our own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(files.certificate, files.private_key)
        if asks_for_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files.ca)
    except OSError as error:
        raise ConfigError(f"cannot use {files.certificate} with {files.private_key}: {error}") from error
    return context


def server_options() -> tuple[tuple[str, int], ...]:
    """Return the channel arguments of every Overspill gRPC server."""
    return _SERVER_OPTIONS


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection, by its verified certificate: a cluster's names the cluster."""

    names: frozenset[str]
    certificate: x509.Certificate


def peer_of(context: grpc.aio.ServicerContext[object, object]) -> Peer:
    """Return who calls."""
    (pem,) = context.auth_context()["x509_pem_cert"]
    return _peer(pem)


@lru_cache(maxsize=256)
def _peer(pem: bytes) -> Peer:
    certificate = read_certificates(pem)[0]
    return Peer(dns_names(certificate), certificate)
