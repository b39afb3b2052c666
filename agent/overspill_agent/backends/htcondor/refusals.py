"""What the pool's refusals mean, and what is to be done about them. Pure but for looking at the token's file.

`htcondor2` has one exception for everything; its words are all there is to go by. Seen with 25.14 against 23.9.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

from overspill.errors import AdminError, OverspillError, UnavailableError

_NOT_AUTHENTICATED = ("AUTHENTICATE:", "Failed to authenticate")
_NOT_AUTHORISED = ("SECMAN:2010", '"DENIED"')
_NOT_THE_OWNER = ("Setting owner to", "Setting job owner to")
_NO_ACCOUNT = "not a valid user account"
_WHAT_TO_DO = (
    "on the central manager, `condor_token_create -identity NAME@DOMAIN -authz READ -authz WRITE`,"
    " and put what it prints there, mode 0600"
)


def meaning_of(message: str, what: str, tokens: Path, now_s: float | None = None) -> OverspillError:
    """Return what to raise for an exception of `htcondor2`.

    Args:
        message: the exception's words.
        what: what was tried: "cannot submit a job".
        tokens: the directory of the token.
        now_s: seconds of the epoch; None: now.
    """
    if any(mark in message for mark in _NOT_THE_OWNER):
        return _owner_refused(message, what)
    if problem := token_problem(tokens, time.time() if now_s is None else now_s):
        return AdminError(f"{what}: {problem}")
    if any(mark in message for mark in _NOT_AUTHENTICATED):
        return AdminError(
            f"{what}: HTCondor does not accept the token in {tokens}: it was made for another pool, or with a key that"
            f" is not there any more; {_WHAT_TO_DO} ({message})"
        )
    if any(mark in message for mark in _NOT_AUTHORISED):
        return AdminError(
            f"{what}: HTCondor knows this agent and does not let it; add its identity to ALLOW_READ and ALLOW_WRITE of"
            f" the access point and the central manager, and condor_reconfig ({message})"
        )
    return UnavailableError(f"{what}: {message}")


def is_owner_refused(message: str) -> bool:
    """Tell whether the schedd has refused to let a job belong to the run's account."""
    return any(mark in message for mark in _NOT_THE_OWNER) and _NO_ACCOUNT not in message


def token_problem(tokens: Path, now_s: float) -> str:
    """Return what is wrong with the token as this host sees it; empty if nothing is."""
    try:
        files = sorted(path for path in tokens.iterdir() if path.is_file())
        lives = [_expires_at(path.read_text(encoding="ascii")) for path in files]
    except OSError as error:
        return f"cannot read the IDTOKEN in {tokens}: {error.strerror}; {_WHAT_TO_DO}"
    except ValueError:
        return f"a file in {tokens} is no IDTOKEN; {_WHAT_TO_DO}, and nothing else"
    if not files:
        return f"there is no IDTOKEN in {tokens}; {_WHAT_TO_DO}"
    if all(expires_at is not None and expires_at <= now_s for expires_at in lives):
        names = ", ".join(map(str, files))
        return f"the IDTOKEN in {names} has expired; {_WHAT_TO_DO}"
    return ""


def _expires_at(token: str) -> float | None:
    """Return when a token expires, None if never. Its signature is the schedd's to check. Source: RFC 7519.

    Raises:
        ValueError: it is no token.
    """
    payload = token.strip().split(".")[1:2]
    if not payload:
        raise ValueError("no token")
    claims = json.loads(base64.urlsafe_b64decode(payload[0] + "=="))
    expires_at = claims.get("exp") if isinstance(claims, dict) else None
    return float(expires_at) if isinstance(expires_at, int | float) else None


def _owner_refused(message: str, what: str) -> AdminError:
    if _NO_ACCOUNT in message:
        advice = "make the account on the access point and the execution hosts"
    else:
        advice = (
            "on the access point, QUEUE_SUPER_USERS must hold this agent's identity, and"
            " QUEUE_SUPER_USER_MAY_IMPERSONATE match the account; then condor_reconfig"
        )
    return AdminError(f"{what}: {message}; {advice}")
