"""What `[metrics]` may say on both sides."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from overspill.metrics import MetricsSection
from overspill_sidecar.config import MetricsConfig

_TLS = {"certificate": "/a.crt", "private_key": "/a.key", "ca": "/ca.crt"}


@pytest.mark.parametrize("listen", ["127.0.0.1:9465", "[::1]:9465", "localhost:9465", "unix:/run/overspill/m.sock"])
def test_what_others_cannot_reach_needs_no_certificate(listen: str) -> None:
    assert MetricsSection(listen=listen).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:9465", "[::]:9465", "10.0.0.1:9465", "head.example:9465"])
def test_what_others_can_reach_needs_certificates(listen: str) -> None:
    with pytest.raises(ValidationError, match=r"listen on 127\.0\.0\.1, or add `tls`"):
        MetricsSection(listen=listen)
    assert MetricsSection.model_validate({"listen": listen, "tls": _TLS}).listen == listen


@pytest.mark.parametrize(
    "listen", ["9465", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", "unix:run/m.sock", ":9465"]
)
def test_what_is_no_address_is_told_how_to_write_one(listen: str) -> None:
    with pytest.raises(ValidationError, match="write "):
        MetricsSection(listen=listen)


def test_the_relays_own_address_is_held_to_the_same() -> None:
    with pytest.raises(ValidationError, match="can be reached from elsewhere"):
        MetricsConfig(relay_listen="0.0.0.0:9466")


def test_nothing_is_served_unless_asked_for() -> None:
    assert MetricsSection().listen is None
