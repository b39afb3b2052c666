"""Codes that were given out and not used yet: one file each, which holds the secret's hash only."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from overspill.certificates import fingerprint, read_certificates, write_file
from overspill.enrolment import Code
from overspill.errors import ConfigError, NotPermittedError
from overspill_agent.pki.authority import Authority, check_cluster

LIFE = timedelta(hours=24)
#: Wrong secrets after which an invitation is void. The secret has 128 bits; somebody who tries is to be noticed.
_MOST_TRIES = 5
_REFUSAL = "the code is wrong, used, or expired; ask the site's operator for another one"


@dataclass(frozen=True, slots=True)
class Invitation:
    """One code, as the site knows it."""

    cluster: str
    secret_sha256: str
    expires_at_s: float
    tries: int = 0

    @property
    def expires_at(self) -> datetime:
        return datetime.fromtimestamp(self.expires_at_s, UTC)


class Invitations:
    """The invitations of one authority. The command line makes them; the one running agent redeems them."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._directory = authority.directory / "invitations"

    def invite(self, cluster: str, now: datetime, life: timedelta = LIFE) -> Code:
        """Return a new code, with which whoever has it becomes `cluster` at this site, once.

        Raises:
            InvalidRequestError: the name makes no sense.
            ConfigError: there is no authority, or its directory cannot be written.
        """
        check_cluster(cluster)
        ca = read_certificates(self._authority.ca_pem)[0]
        code = Code(invitation=secrets.token_bytes(6), secret=secrets.token_bytes(16), ca_sha256=fingerprint(ca))
        invitation = Invitation(cluster, _hash(code.secret), (now + life).timestamp())
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._write(self._path(code.invitation), invitation)
        except OSError as error:
            raise ConfigError(f"cannot write {self._directory}: {error.strerror}") from error
        return code

    def open_invitations(self, now: datetime) -> list[Invitation]:
        """Return those that can still be redeemed, and forget the others."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            invitation = self._load(path)
            if invitation is None or invitation.expires_at < now:
                path.unlink(missing_ok=True)
            else:
                found.append(invitation)
        return sorted(found, key=lambda each: each.expires_at_s)

    def withdraw(self, cluster: str) -> int:
        """Forget all codes of a cluster; return how many there were."""
        paths = [
            path for path in self._directory.glob("*.json") if (each := self._load(path)) and each.cluster == cluster
        ]
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def redeem(self, invitation: bytes, secret: bytes, now: datetime) -> str:
        """Use an invitation up; return the cluster that it is for. Of two at the same time one succeeds.

        Raises:
            NotPermittedError: it cannot be used, in the same words whatever the reason.
        """
        path = self._path(invitation)
        found = self._load(path)
        if found is None:
            raise NotPermittedError(_REFUSAL)
        if found.expires_at < now or not hmac.compare_digest(found.secret_sha256, _hash(secret)):
            self._count_try(path, found)
            raise NotPermittedError(_REFUSAL)
        try:
            path.unlink()
        except FileNotFoundError:
            raise NotPermittedError(_REFUSAL) from None
        return found.cluster

    def _count_try(self, path: Path, found: Invitation) -> None:
        if found.tries + 1 >= _MOST_TRIES:
            path.unlink(missing_ok=True)
        else:
            self._write(path, Invitation(found.cluster, found.secret_sha256, found.expires_at_s, found.tries + 1))

    def _path(self, invitation: bytes) -> Path:
        return self._directory / f"{invitation.hex()}.json"

    def _load(self, path: Path) -> Invitation | None:
        try:
            return Invitation(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, path: Path, invitation: Invitation) -> None:
        write_file(path, json.dumps(asdict(invitation)).encode())


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
