"""The code with which a cluster gets its first certificate, and the requests that it is good for. Pure.

A code holds a one-time secret and the SHA-256 of the site's authority: it tells the site who asks, and the cluster whom
it asks. The requests go to the agent's HTTPS port for runners, where no client certificate is needed:

    GET  /v1/ca       the authority's certificate, PEM; the caller compares it with the code
    POST /v1/enroll   JSON {"invitation", "secret", "signing_request"} -> {"slurm_cluster", "certificate", "ca"}
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from overspill.errors import InvalidRequestError

CA_PATH = "/v1/ca"
ENROLL_PATH = "/v1/enroll"
_PREFIX = "ovs1-"
_INVITATION_BYTES = 6
_SECRET_BYTES = 16
_SHA256_BYTES = 32
_CHECK_BYTES = 3
_SIZE = _INVITATION_BYTES + _SECRET_BYTES + _SHA256_BYTES + _CHECK_BYTES


@dataclass(frozen=True, slots=True)
class Code:
    """A code's parts: which invitation, its secret, and the SHA-256 of the authority's certificate."""

    invitation: bytes
    secret: bytes
    ca_sha256: bytes

    def __str__(self) -> str:
        body = self.invitation + self.secret + self.ca_sha256
        return _PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode("ascii")

    @classmethod
    def parse(cls, text: str) -> Code:
        """Return the code in `text`.

        Raises:
            InvalidRequestError: it is not a whole one.
        """
        text = text.strip()
        try:
            data = base64.urlsafe_b64decode(text.removeprefix(_PREFIX))
        except (binascii.Error, ValueError):
            data = b""
        body = data[:-_CHECK_BYTES]
        if not text.startswith(_PREFIX) or len(data) != _SIZE or data[-_CHECK_BYTES:] != _check(body):
            raise InvalidRequestError(f"this is no enrolment code, or not all of it: one begins with {_PREFIX}")
        secret_end = _INVITATION_BYTES + _SECRET_BYTES
        return cls(body[:_INVITATION_BYTES], body[_INVITATION_BYTES:secret_end], body[secret_end:])


def _check(body: bytes) -> bytes:
    """Return what tells a mistyped code from a right one."""
    return hashlib.sha256(_PREFIX.encode() + body).digest()[:_CHECK_BYTES]
