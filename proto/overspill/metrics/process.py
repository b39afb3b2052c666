"""What every daemon of ours tells of itself: version, processes' own figures, and when its certificates end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from overspill import __version__


def describe_process(registry: CollectorRegistry, certificates: Iterable[Path]) -> None:
    """Have `registry` tell of this process and of the certificates in these PEM files."""
    # A second series for each, with the time of its first count: nobody asks for it.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # its stubs forget the return type
    build = Gauge("overspill_build_info", "Always 1; the version is a label.", ["version"], registry=registry)
    build.labels(__version__).set(1)
    ProcessCollector(registry=registry)
    registry.register(CertificateExpiry(certificates))


class CertificateExpiry(Collector):
    """Reads the files anew each time, so that a renewal shows by itself."""

    def __init__(self, certificates: Iterable[Path]) -> None:
        self._certificates = sorted(set(certificates))

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "overspill_certificate_expiry_timestamp_seconds",
            "When the certificate in the file ends, or the first of its chain; 0 if the file cannot be read.",
            labels=["path"],
        )
        for path in self._certificates:
            family.add_metric([str(path)], _expires_at(path))
        yield family


def _expires_at(path: Path) -> float:
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return 0.0
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)
