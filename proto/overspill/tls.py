"""Mutual TLS between a cluster's relay and a site's agent, and the channel that both keep for life."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from overspill.errors import ConfigError

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
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end: its certificate with chain, its private key, and the CA that the other end must be of."""

    certificate: Path
    private_key: Path
    ca: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return certificate, key and CA.

        Raises:
            ConfigError: if one cannot be read; names the file.
        """
        try:
            return self.certificate.read_bytes(), self.private_key.read_bytes(), self.ca.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error


def open_channel(target: str, files: TlsFiles) -> grpc.aio.Channel:
    """Return a channel to the agent at `target` (host:port); it connects, and reconnects, by itself.

    Raises:
        ConfigError: if a PEM file cannot be read.
    """
    certificate, private_key, ca = files.read()
    credentials = grpc.ssl_channel_credentials(
        root_certificates=ca, private_key=private_key, certificate_chain=certificate
    )
    return grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials for a server that takes only clients with a certificate of `files.ca`.

    Raises:
        ConfigError: if a PEM file cannot be read.
    """
    certificate, private_key, ca = files.read()
    return grpc.ssl_server_credentials([(private_key, certificate)], root_certificates=ca, require_client_auth=True)


def server_options() -> tuple[tuple[str, int], ...]:
    """Return the channel arguments of every Overspill gRPC server."""
    return _SERVER_OPTIONS


def peer_names(context: grpc.aio.ServicerContext[object, object]) -> frozenset[str]:
    """Return the DNS names in the verified client certificate; a cluster's certificate names the cluster."""
    names = context.auth_context().get("x509_subject_alternative_name", [])
    return frozenset(name.decode("utf-8", "replace") for name in names)
