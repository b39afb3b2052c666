"""What a cluster signs with each Submit: who wants what to run. The site verifies it and keeps it with the run.

A claim is a JWS (RFC 7515, compact) whose header carries the signer's certificate (`x5c`), so that it can be verified
long after. Both ends derive its contents from the request, so that there is one definition of what it says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from overspill.certificates import CLOCK_SKEW, dns_names, read_certificates
from overspill.errors import ConfigError, NotPermittedError
from overspill.request_id import RequestId
from overspill.v1 import agent_pb2

#: From signing to the agent's verification; the relay signs anew for each attempt to submit.
LIFE = timedelta(minutes=5)
#: Source: https://www.rfc-editor.org/rfc/rfc7515#section-4.1.9
_TYPE = "overspill-claim+jwt"


def _be_authority(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("signed by a certificate that is no authority's")


def _be_for_clients(_policy: Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    if usage is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise ValueError("not for clients")


#: What TLS lets in, signs: the defaults, made for the web, refuse authorities that sites have.
_AUTHORITIES = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _be_authority)
_CLIENTS = (
    ExtensionPolicy.permit_all()
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _be_for_clients)
)


class _Limits(jws.JWSRegistry):
    """joserfc's own limits, but for a header that holds certificates."""

    max_header_length = 48 * 1024
    max_payload_length = 8 * 1024


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants what to run. Names in the signed document are those of the fields."""

    slurm_cluster: str
    #: Canonical text of the request id: this attempt of this job, for all time.
    request_id: str
    slurm_job_id: int
    user_id: int
    group_id: int
    user_name: str
    #: What the job is charged to at home.
    account: str
    script_sha256: str


def claim_of(request: agent_pb2.SubmitRequest) -> Claim:
    """Return what the request's claim must say."""
    message, spec = request.request_id, request.spec
    request_id = RequestId(
        slurm_cluster=message.slurm_cluster,
        slurm_job_id=message.slurm_job_id,
        array_task_id=message.array_task_id if message.HasField("array_task_id") else None,
        submit_time_s=message.submit_time_s,
        restart_count=message.restart_count,
    )
    return Claim(
        slurm_cluster=message.slurm_cluster,
        request_id=str(request_id),
        slurm_job_id=message.slurm_job_id,
        user_id=spec.user_id,
        group_id=spec.group_id,
        user_name=spec.user_name,
        account=spec.account,
        script_sha256=hashlib.sha256(spec.script).hexdigest(),
    )


class Signer:
    """Signs claims with a certificate's key."""

    def __init__(self, certificate: bytes, private_key: bytes) -> None:
        """Load both; PEM.

        Raises:
            ConfigError: they are not what they should be, or of a kind that no claim is signed with.
        """
        chain = read_certificates(certificate)
        self._algorithm, self._key = _signing_key(private_key)
        self._chain = [_base64(each.public_bytes(serialization.Encoding.DER)) for each in chain]

    def sign(self, claim: Claim, now: datetime) -> str:
        """Return the JWS; good for `LIFE`."""
        times = {"iat": int(now.timestamp()), "exp": int((now + LIFE).timestamp())}
        payload = json.dumps(asdict(claim) | times, separators=(",", ":")).encode()
        header = {"alg": self._algorithm, "typ": _TYPE, "x5c": self._chain}
        return jws.serialize_compact(header, payload, self._key, registry=_Limits(algorithms=[self._algorithm]))


def verify(token: str, expected: Claim, ca: Sequence[x509.Certificate], now: datetime) -> x509.Certificate:
    """Return the certificate of the cluster that has signed just this, just now; clocks may differ by `CLOCK_SKEW`.

    Args:
        token: the JWS.
        expected: what the request says.
        ca: the authorities whose certificates count.
        now: by this end's clock.

    Raises:
        NotPermittedError: says what is wrong.
    """
    if not token:
        raise NotPermittedError("the request carries no claim; update the cluster's Overspill to this site's version")
    try:
        chain = _chain_of(token)
        algorithm, key = _verifying_key(chain[0])
        signed = jws.deserialize_compact(token, key, registry=_Limits(algorithms=[algorithm]))
        values = json.loads(signed.payload)
        issued_at, expires_at = (datetime.fromtimestamp(values.pop(name), UTC) for name in ("iat", "exp"))
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError, ConfigError) as error:
        raise NotPermittedError(f"the claim is not signed by its certificate: {error}") from error
    _check_signer(chain, expected.slurm_cluster, ca, now)
    _check_times(issued_at, expires_at, now)
    _check_contents(values, expected)
    return chain[0]


def _check_signer(chain: list[x509.Certificate], cluster: str, ca: Sequence[x509.Certificate], now: datetime) -> None:
    leaf, *intermediates = chain
    if cluster not in dns_names(leaf):
        raise NotPermittedError(
            f"the claim is signed for {', '.join(sorted(dns_names(leaf))) or 'nobody'}, not for cluster {cluster!r}"
        )
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not begins - CLOCK_SKEW <= now <= ends + CLOCK_SKEW:
        raise NotPermittedError(f"the claim's certificate was valid from {begins:%F %T} to {ends:%F %T} UTC only")
    # Within the skew the verifier is told a time at which the certificate was valid: it knows no tolerance.
    at = min(max(now, begins), ends)
    try:
        verifier = PolicyBuilder().store(Store(list(ca))).time(at)
        verifier = verifier.extension_policies(ca_policy=_AUTHORITIES, ee_policy=_CLIENTS)
        verifier.build_client_verifier().verify(leaf, intermediates)
    except VerificationError as error:
        raise NotPermittedError(f"the claim's certificate is not of this site's authority: {error}") from error


def _check_times(issued_at: datetime, expires_at: datetime, now: datetime) -> None:
    if issued_at - CLOCK_SKEW > now:
        raise NotPermittedError(f"the claim is of {issued_at:%F %T} UTC, which is to come; set both ends' clocks")
    if expires_at + CLOCK_SKEW < now or expires_at > issued_at + LIFE:
        raise NotPermittedError(f"the claim expired at {expires_at:%F %T} UTC; set both ends' clocks")


def _check_contents(values: Mapping[str, object], expected: Claim) -> None:
    if wrong := [name for name, value in asdict(expected).items() if values.get(name) != value]:
        raise NotPermittedError(f"the claim does not say what the request says: {', '.join(wrong)}")


def _chain_of(token: str) -> list[x509.Certificate]:
    header = jws.extract_compact(token.encode(), registry=_Limits()).headers()
    if header.get("typ") != _TYPE:
        raise ValueError(f"its type is {header.get('typ')!r}")
    return [x509.load_der_x509_certificate(_unbase64(each)) for each in header["x5c"]]


def _signing_key(private_key: bytes) -> tuple[str, ECKey | RSAKey]:
    try:
        key = serialization.load_pem_private_key(private_key, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the private key cannot be read: {error}") from error
    return _algorithm_of(key.public_key()), _jwk(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key(),
    )


def _verifying_key(certificate: x509.Certificate) -> tuple[str, ECKey | RSAKey]:
    key = certificate.public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _algorithm_of(key), _jwk(pem, key)


def _algorithm_of(key: object) -> str:
    """Return the one algorithm that a key of this kind signs with: the header has no say in it."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return "ES384"
    if isinstance(key, rsa.RSAPublicKey):
        return "PS256"
    raise ConfigError("the certificate's key must be ECDSA on P-256 or P-384, or RSA")


def _jwk(pem: bytes, public_key: object) -> ECKey | RSAKey:
    return RSAKey.import_key(pem) if isinstance(public_key, rsa.RSAPublicKey) else ECKey.import_key(pem)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _unbase64(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError("x5c holds something that is no text")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"x5c is not base64: {error}") from error
