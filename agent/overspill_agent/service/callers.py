"""Who calls, whether its certificate still counts, and whether it signed what it submits."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from cryptography import x509

from overspill import claims
from overspill.certificates import CLOCK_SKEW, is_issued_by, read_certificates, utc_now
from overspill.errors import NotPermittedError, UnrunnableError
from overspill.tls import Peer, WatchedTls, peer_of
from overspill.v1 import agent_pb2 as pb
from overspill_agent.pki import Authority
from overspill_agent.pki.authority import issued_at
from overspill_agent.service.interceptor import Context


class Callers:
    """Judges callers that TLS has let in: a connection may outlive its certificate, and a revocation comes after it."""

    def __init__(self, tls: WatchedTls, authority: Authority) -> None:
        """Represent the clusters that `tls` trusts, and those that `authority` has issued certificates to."""
        self._tls = tls
        self._authority = authority
        self._revoked_state: object = None
        self._revoked: dict[str, datetime] = {}

    def identify(self, context: Context) -> Peer:
        """Return who calls.

        Raises:
            NotPermittedError: its certificate has expired or is revoked.
        """
        peer = peer_of(context)
        expired_at = peer.certificate.not_valid_after_utc
        if expired_at + CLOCK_SKEW < utc_now():
            raise NotPermittedError(
                f"the certificate expired at {expired_at:%F %T} UTC; get another one: overspill enroll"
            )
        self.check_not_revoked(peer)
        return peer

    def verify_claim(self, request: pb.SubmitRequest) -> None:
        """Check that the cluster has signed this request, just now.

        Raises:
            NotPermittedError: it has not; says what is wrong.
        """
        trusted = _certificates(self._tls.current().ca)
        signer = claims.verify(request.claim, claims.claim_of(request), trusted, utc_now())
        self.check_not_revoked(Peer(frozenset({request.request_id.slurm_cluster}), signer))

    def renewable(self, peer: Peer) -> str:
        """Return the cluster whose next certificate the site's authority may issue to this caller.

        Raises:
            UnrunnableError: its certificate is not of that authority.
        """
        ours = _certificates(self._authority.ca_pem) if self._authority.exists else []
        if not any(is_issued_by(peer.certificate, ca) for ca in ours) or len(peer.names) != 1:
            raise UnrunnableError("the certificate is not of this site's own authority; renew it where it was issued")
        (name,) = peer.names
        return name

    def check_not_revoked(self, peer: Peer) -> None:
        """Refuse a certificate that the site's operator has revoked.

        Raises:
            NotPermittedError: it is.
        """
        revoked = self._revocations()
        if any(name in revoked and issued_at(peer.certificate) <= revoked[name] for name in peer.names):
            raise NotPermittedError("the certificate is revoked; ask the site's operator for a new enrolment code")

    def _revocations(self) -> dict[str, datetime]:
        """Return until when issued certificates do not count, read again when that has changed."""
        state = self._authority.revocations_state()
        if state != self._revoked_state:
            self._revoked = self._authority.revocations()
            self._revoked_state = state
        return self._revoked


@lru_cache(maxsize=4)
def _certificates(pem: bytes) -> list[x509.Certificate]:
    return read_certificates(pem)
