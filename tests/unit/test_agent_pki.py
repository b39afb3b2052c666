"""A site's authority and its one-time codes."""

from __future__ import annotations

import ssl
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from overspill.certificates import (
    check_pair,
    dns_names,
    is_issued_by,
    is_renewal_due,
    new_key,
    read_certificates,
    signing_request,
)
from overspill.enrolment import Code
from overspill.errors import ConfigError, InvalidRequestError, NotPermittedError
from overspill_agent.config import Pki
from overspill_agent.pki import Authority, Invitations
from overspill_agent.pki.authority import issued_at

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
_DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(Pki(directory=tmp_path / "pki"))
    authority.create(["agent.example", "192.0.2.7"], NOW)
    return authority


def test_secrets_are_the_owners_alone(authority: Authority) -> None:
    Invitations(authority).invite("rig", NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in authority.directory.rglob("*")}
    assert modes.pop("ca.pem") == 0o644
    assert modes.pop("invitations") == 0o700
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(authority.directory.stat().st_mode) == 0o700


def test_the_agents_certificate_is_for_its_names_and_strict_tls_libraries_take_it(authority: Authority) -> None:
    pem = (authority.directory / "agent.pem").read_bytes()
    leaf = check_pair(pem, pem)
    assert dns_names(leaf) == {"agent.example"}
    (ca,) = read_certificates(authority.ca_pem)
    assert is_issued_by(leaf, ca)
    for certificate, is_ca in ((ca, True), (leaf, False)):
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca) == (True, is_ca)
        assert extensions.get_extension_for_class(x509.KeyUsage).critical
        extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    context = ssl.create_default_context(cadata=authority.ca_pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(authority.directory / "agent.pem")


def test_an_authority_is_not_made_twice(authority: Authority) -> None:
    before = authority.ca_pem
    with pytest.raises(ConfigError, match="holds an authority already"):
        authority.create(["agent.example"], NOW)
    assert authority.ca_pem == before


def test_renewal_comes_after_two_thirds_and_keeps_the_names(authority: Authority) -> None:
    assert authority.renew_agent_if_due(NOW + 19 * _DAY) is None
    renewed = authority.renew_agent_if_due(NOW + 21 * _DAY)
    assert renewed is not None
    assert dns_names(renewed) == {"agent.example"}
    assert renewed.not_valid_after_utc == NOW + 51 * _DAY
    assert authority.renew_agent_if_due(NOW + 21 * _DAY) is None


def test_a_certificate_is_valid_for_a_clock_that_is_ten_minutes_behind(authority: Authority) -> None:
    assert authority.agent_certificate().not_valid_before_utc <= NOW - timedelta(minutes=10)
    assert not is_renewal_due(authority.agent_certificate(), NOW - timedelta(minutes=10))


def test_a_request_decides_nothing_but_the_key(authority: Authority) -> None:
    key = new_key()
    (leaf,) = read_certificates(authority.issue_to_cluster("rig", signing_request(key), NOW, how="issue"))
    assert leaf.public_key() == key.public_key()
    assert dns_names(leaf) == {"rig"}
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert usage == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


@pytest.mark.parametrize("request_pem", [b"", b"nonsense", b"x" * 20_000])
def test_a_request_that_is_none_is_refused(authority: Authority, request_pem: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        authority.issue_to_cluster("rig", request_pem, NOW, how="issue")


@pytest.mark.parametrize("name", ["", "../x", "Rig", "a b", "*", "x" * 64, "rig."])
def test_what_is_no_clusters_name_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="ClusterName"):
        Invitations(authority).invite(name, NOW)
    with pytest.raises(InvalidRequestError, match="ClusterName"):
        authority.issue_to_cluster(name, signing_request(new_key()), NOW, how="issue")


def test_everything_issued_is_written_down(authority: Authority) -> None:
    authority.issue_to_cluster("rig", signing_request(new_key()), NOW, how="enroll")
    assert [(each.how, each.names) for each in authority.issued()] == [
        ("init", ["agent.example", "192.0.2.7"]),
        ("enroll", ["rig"]),
    ]


def test_a_code_survives_being_written_and_read(authority: Authority) -> None:
    code = Invitations(authority).invite("rig", NOW)
    assert Code.parse(f" {code}\n") == code


@pytest.mark.parametrize(
    "spoil", [lambda text: text[:-1], lambda text: text[5:], lambda text: text[:9] + "AAA" + text[12:]]
)
def test_a_mistyped_code_is_told_before_it_is_sent(authority: Authority, spoil: object) -> None:
    text = str(Invitations(authority).invite("rig", NOW))
    with pytest.raises(InvalidRequestError, match="no enrolment code"):
        Code.parse(spoil(text))  # type: ignore[operator]


def test_a_code_is_good_once(authority: Authority) -> None:
    invitations = Invitations(authority)
    code = invitations.invite("rig", NOW)
    assert invitations.redeem(code.invitation, code.secret, NOW) == "rig"
    with pytest.raises(NotPermittedError):
        invitations.redeem(code.invitation, code.secret, NOW)


def test_a_code_ends(authority: Authority) -> None:
    invitations = Invitations(authority)
    code = invitations.invite("rig", NOW)
    with pytest.raises(NotPermittedError):
        invitations.redeem(code.invitation, code.secret, NOW + 2 * _DAY)
    assert invitations.open_invitations(NOW + 2 * _DAY) == []


def test_after_five_wrong_secrets_a_code_is_void(authority: Authority) -> None:
    invitations = Invitations(authority)
    code = invitations.invite("rig", NOW)
    for _ in range(5):
        with pytest.raises(NotPermittedError):
            invitations.redeem(code.invitation, b"0" * 16, NOW)
    with pytest.raises(NotPermittedError):
        invitations.redeem(code.invitation, code.secret, NOW)


def test_a_revocation_withdraws_open_codes_and_is_remembered(authority: Authority) -> None:
    invitations = Invitations(authority)
    invitations.invite("rig", NOW)
    authority.revoke("rig", NOW)
    assert invitations.withdraw("rig") == 1
    assert authority.revocations() == {"rig": NOW}


def test_a_renewal_that_is_under_way_does_not_outlive_the_revocation(authority: Authority) -> None:
    """Who has the key may ask for the next certificate all the time: one is always under way."""
    request, checking, checked = signing_request(new_key()), threading.Event(), threading.Event()

    def check() -> None:
        checking.set()
        checked.wait(30)

    with ThreadPoolExecutor() as pool:
        renewing = pool.submit(authority.renew_for_cluster, "rig", request, NOW + timedelta(seconds=2), check)
        assert checking.wait(30)
        revoking = pool.submit(authority.revoke, "rig", NOW)
        checked.set()
        revoking.result(30)
        (renewed,) = read_certificates(renewing.result(30))
    assert issued_at(renewed) <= authority.revocations()["rig"]


def test_who_is_revoked_gets_no_next_certificate(authority: Authority) -> None:
    def check() -> None:
        raise NotPermittedError("revoked")

    before = authority.issued()
    with pytest.raises(NotPermittedError):
        authority.renew_for_cluster("rig", signing_request(new_key()), NOW, check)
    assert authority.issued() == before


def test_no_secret_is_stored(authority: Authority) -> None:
    code = Invitations(authority).invite("rig", NOW)
    stored = b"".join(path.read_bytes() for path in authority.directory.rglob("*") if path.is_file())
    assert code.secret.hex().encode() not in stored
