"""What a cluster signs, and what of it a site believes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from overspill.certificates import key_pem, new_key, read_certificates, signing_request
from overspill.claims import LIFE, Signer, claim_of, verify
from overspill.errors import NotPermittedError
from overspill.v1 import agent_pb2 as pb
from overspill_agent.config import Pki
from overspill_agent.pki import Authority

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
_MINUTES = timedelta(minutes=1)
REQUEST = pb.SubmitRequest(
    request_id=pb.RequestId(slurm_cluster="my_cluster", slurm_job_id=7, submit_time_s=1, restart_count=2),
    spec=pb.RunSpec(script=b"#!/bin/sh\n", user_name="alice", user_id=2001, group_id=2001, account="physics"),
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(Pki(directory=tmp_path / "pki"))
    authority.create(["agent.example"], NOW)
    return authority


def _signed(authority: Authority, cluster: str = "my_cluster", at: datetime = NOW) -> str:
    key = new_key()
    certificate = authority.issue_to_cluster(cluster, signing_request(key), NOW, how="issue")
    return Signer(certificate, key_pem(key)).sign(claim_of(REQUEST), at)


def _trusted(authority: Authority) -> list[x509.Certificate]:
    return read_certificates(authority.ca_pem)


def test_what_was_signed_just_now_is_believed(authority: Authority) -> None:
    signer = verify(_signed(authority), claim_of(REQUEST), _trusted(authority), NOW)
    assert signer.subject.rfc4514_string() == "CN=my_cluster"


@pytest.mark.parametrize("skew", [-10 * _MINUTES, 10 * _MINUTES, LIFE + 10 * _MINUTES])
def test_clocks_may_differ_by_ten_minutes(authority: Authority, skew: timedelta) -> None:
    verify(_signed(authority), claim_of(REQUEST), _trusted(authority), NOW + skew)


@pytest.mark.parametrize(
    ("skew", "told"), [(-11 * _MINUTES, "which is to come"), (LIFE + 11 * _MINUTES, "the claim expired")]
)
def test_a_claim_of_another_time_is_not_believed(authority: Authority, skew: timedelta, told: str) -> None:
    with pytest.raises(NotPermittedError, match=told):
        verify(_signed(authority), claim_of(REQUEST), _trusted(authority), NOW + skew)


@pytest.mark.parametrize(
    "change",
    [
        {"user_name": "root"},
        {"user_id": 0},
        {"group_id": 0},
        {"account": "other"},
        {"slurm_job_id": 8},
        {"request_id": "my_cluster/7/1/3"},
        {"script_sha256": "0" * 64},
    ],
)
def test_a_claim_about_something_else_is_not_believed(authority: Authority, change: dict[str, object]) -> None:
    with pytest.raises(NotPermittedError, match=f"not say what the request says: {next(iter(change))}"):
        verify(_signed(authority), replace(claim_of(REQUEST), **change), _trusted(authority), NOW)  # type: ignore[arg-type]


def test_another_clusters_certificate_does_not_sign_for_this_one(authority: Authority) -> None:
    with pytest.raises(NotPermittedError, match="signed for other, not for cluster 'my_cluster'"):
        verify(_signed(authority, "other"), claim_of(REQUEST), _trusted(authority), NOW)


def test_another_authoritys_certificate_does_not_sign(authority: Authority, tmp_path: Path) -> None:
    foreign = Authority(Pki(directory=tmp_path / "foreign"))
    foreign.create(["agent.example"], NOW)
    with pytest.raises(NotPermittedError, match="not of this site's authority"):
        verify(_signed(foreign), claim_of(REQUEST), _trusted(authority), NOW)


def test_a_certificate_cannot_make_another_one(authority: Authority) -> None:
    """A cluster's own certificate is no authority's, whatever it has signed."""
    evil, forged = new_key(), new_key()
    evil_pem = authority.issue_to_cluster("evil", signing_request(evil), NOW, how="issue")
    (issuer,) = read_certificates(evil_pem)
    name = x509.SubjectAlternativeName([x509.DNSName("my_cluster")])
    builder = x509.CertificateBuilder(issuer.subject, issuer.subject, forged.public_key(), 1, NOW, NOW + 60 * _MINUTES)
    builder = builder.add_extension(name, critical=False)
    leaf = builder.sign(evil, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    token = Signer(leaf + evil_pem, key_pem(forged)).sign(claim_of(REQUEST), NOW)
    with pytest.raises(NotPermittedError, match="not of this site's authority"):
        verify(token, claim_of(REQUEST), _trusted(authority), NOW)


def test_no_claim_is_told_as_an_old_cluster(authority: Authority) -> None:
    with pytest.raises(NotPermittedError, match="carries no claim; update"):
        verify("", claim_of(REQUEST), _trusted(authority), NOW)


def test_what_is_no_claim_is_refused(authority: Authority) -> None:
    header, payload, signature = _signed(authority).split(".")
    for token in ("x", "a.b.c", f"{header}.{payload}.", f"{header}.{payload[:-4]}AAAA.{signature}", "." * 9, "é.é.é"):
        with pytest.raises(NotPermittedError, match="not signed by its certificate"):
            verify(token, claim_of(REQUEST), _trusted(authority), NOW)
