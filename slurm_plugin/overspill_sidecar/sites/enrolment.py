"""The cluster's end of an enrolment: a key that never leaves this host, and a certificate for it."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from pydantic import BaseModel, ConfigDict, ValidationError

from overspill.certificates import key_pem, new_key, read_certificates, signing_request
from overspill.enrolment import CA_PATH, ENROLL_PATH, Code
from overspill.errors import (
    AdminError,
    ConfigError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    OverspillError,
    UnavailableError,
)

_DEADLINE_S = 20.0
_MOST_BYTES = 256 * 1024
_REFUSALS: dict[int, type[OverspillError]] = {403: NotPermittedError, 404: NotFoundError, 429: UnavailableError}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a code was exchanged for; PEM."""

    slurm_cluster: str
    certificate: bytes
    private_key: bytes
    ca: bytes


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    slurm_cluster: str
    certificate: str
    ca: str


def redeem(host: str, port: int, code: Code) -> Enrolment:
    """Exchange a code for a certificate. The code's secret goes only to the site that the code is of.

    Raises:
        NotPermittedError: the code is used up, expired or wrong, or who answers is another than the code's site.
        OverspillError: the agent cannot be reached, or has no authority of its own.
    """
    ca = _authority(host, port, code)
    key = new_key()
    request = {
        "invitation": code.invitation.hex(),
        "secret": code.secret.hex(),
        "signing_request": signing_request(key).decode("ascii"),
    }
    context = ssl.create_default_context(cadata=ca.decode("ascii"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    body = _ask(host, port, context, "POST", ENROLL_PATH, json.dumps(request).encode())
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError as error:
        raise AdminError(f"{host}:{port} gives no answer that makes sense; is it an Overspill agent?") from error
    return Enrolment(answer.slurm_cluster, answer.certificate.encode(), key_pem(key), answer.ca.encode())


def _authority(host: str, port: int, code: Code) -> bytes:
    """Return the certificate of the site's authority, from whoever answers: the code tells whether it is the one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    found = _ask(host, port, context, "GET", CA_PATH)
    try:
        certificate = read_certificates(found)[0]
    except ConfigError as error:
        raise AdminError(f"{host}:{port} gives no certificate; is it an Overspill agent's HTTPS port?") from error
    der = certificate.public_bytes(serialization.Encoding.DER)
    if hashlib.sha256(der).digest() != code.ca_sha256:
        raise NotPermittedError(
            f"{host}:{port} is not the site that the code is of: the address is wrong, or somebody is in between."
            " Nothing was sent; ask the site's operator"
        )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _ask(host: str, port: int, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPSConnection(host, port, timeout=_DEADLINE_S, context=context)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = response.read(_MOST_BYTES)
    except ssl.SSLCertVerificationError as error:
        raise InvalidRequestError(
            f"the agent's certificate is not good for {host}: {error.verify_message};"
            " use the name that the site's operator gave, or have this one added: overspill pki renew --name"
        ) from error
    except socket.gaierror as error:
        raise UnavailableError(f"{host} has no address here: {error.strerror}") from error
    except ssl.SSLError as error:
        raise UnavailableError(f"{host}:{port} speaks no TLS 1.3: {error.reason}; is it the HTTPS port?") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"cannot reach {host}:{port}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        told = answer.decode("utf-8", "replace").strip()[:500]
        raise _REFUSALS.get(response.status, AdminError)(told or f"{host}:{port} answers {response.status}")
    return answer
