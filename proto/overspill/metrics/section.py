"""The section `[metrics]` of both configuration files."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from overspill.tls import TlsFiles

UNIX_PREFIX = "unix:"


def split_address(listen: str) -> tuple[str, int]:
    """Return host and port of "127.0.0.1:9465" or "[::1]:9465"."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _be_address(value: str) -> str:
    if value.startswith(UNIX_PREFIX):
        if not Path(value.removeprefix(UNIX_PREFIX)).is_absolute():
            raise ValueError('write an absolute path: "unix:/run/overspill/metrics.sock"')
        return value
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 2**16):
        raise ValueError('write "address:port" or "unix:/path", for example "127.0.0.1:9465"')
    return value


def _be_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("write an absolute path: a service has no working directory of its own")
    return path


ListenAddress = Annotated[str, AfterValidator(_be_address)]
_PemFile = Annotated[Path, AfterValidator(_be_absolute)]


class MetricsTls(BaseModel):
    """PEM files. Whoever has a certificate of `ca` may read the metrics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: _PemFile
    private_key: _PemFile
    ca: _PemFile

    @property
    def files(self) -> TlsFiles:
        return TlsFiles(self.certificate, self.private_key, self.ca)


class MetricsSection(BaseModel):
    """Where Prometheus may ask. Nothing is served unless `listen` is set.

    Attributes:
        listen: "127.0.0.1:9465", or "unix:/path" for a socket that only our own user and root may open.
        tls: what any other address than a loopback one needs: TLS 1.3, and no client without a certificate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: ListenAddress | None = None
    tls: MetricsTls | None = None

    @model_validator(mode="after")
    def _must_be_private(self) -> Self:
        for listen in self.addresses():
            if self.tls is None and not _is_private(listen):
                raise ValueError(
                    f"{listen} can be reached from elsewhere: listen on 127.0.0.1, or add `tls` with certificate,"
                    " private_key and ca, so that only clients with a certificate are answered"
                )
        return self

    def addresses(self) -> tuple[str, ...]:
        """Return every address that the section names."""
        return (self.listen,) if self.listen else ()


def _is_private(listen: str) -> bool:
    if listen.startswith(UNIX_PREFIX):
        return True
    host, _ = split_address(listen)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
