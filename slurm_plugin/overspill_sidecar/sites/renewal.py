"""The loop that renews this cluster's certificate for one site, in good time and without anybody's help."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from cryptography import x509

from overspill.certificates import (
    BACKDATED,
    is_renewal_due,
    key_pem,
    new_key,
    signing_request,
    utc_now,
)
from overspill.errors import ConfigError, OverspillError
from overspill_sidecar.enrolled import Enrolled
from overspill_sidecar.sites.site import Site

_log = structlog.get_logger(__name__)

_LONGEST_PAUSE = timedelta(seconds=5)
_SHORTEST_PAUSE = timedelta(seconds=1)
#: Looks per life: often enough for several tries between the time that renewal is due and the end.
_LOOKS = 20


class Renewal:
    """Keeps one site's certificate. Several processes may do so for the same directory; one of them acts."""

    def __init__(self, site: Site, enrolled: Enrolled) -> None:
        self._site = site
        self._enrolled = enrolled
        self._is_trouble_known = False

    async def run(self) -> None:
        """Renew whenever that is due, until cancelled."""
        while True:
            pause = _LONGEST_PAUSE
            try:
                leaf = await asyncio.to_thread(self._leaf)
                pause = max(_SHORTEST_PAUSE, min(_LONGEST_PAUSE, _life(leaf) / _LOOKS))
                if is_renewal_due(leaf, utc_now()):
                    await self._renew()
                self._is_trouble_known = False
            except (OverspillError, OSError) as error:
                self._complain(error)
            await asyncio.sleep(pause.total_seconds())

    async def _renew(self) -> None:
        """Get the next certificate, unless another process does.

        Raises:
            OverspillError: the agent does not issue it; it is asked again.
            OSError: the directory cannot be written.
        """
        with _held(self._enrolled) as is_ours:
            # Another process may have finished just before.
            if not is_ours or not is_renewal_due(self._leaf(), utc_now()):
                return
            key = new_key()
            answer = await self._site.renew(signing_request(key))
            await asyncio.to_thread(
                self._enrolled.write, certificate=answer.certificate, private_key=key_pem(key), ca=answer.ca
            )
        expires_at = self._leaf().not_valid_after_utc
        _log.info(
            "certificate renewed",
            action="certificate_renewed",
            site=self._site.name,
            expires_at=f"{expires_at:%Y-%m-%dT%H:%M:%SZ}",
        )

    def _leaf(self) -> x509.Certificate:
        return self._enrolled.files.read().leaf

    def _complain(self, error: Exception) -> None:
        """Say once what is in the way, as an error if it is too late: then somebody must act."""
        if self._is_trouble_known:
            return
        self._is_trouble_known = True
        reason = error.reason if isinstance(error, OverspillError) else str(error)
        try:
            expires_at = self._leaf().not_valid_after_utc
        except ConfigError:
            expires_at = None
        if expires_at is None or expires_at < utc_now():
            remedy = f"ask the site for a code, then: overspill enroll --site {self._site.name} HOST:PORT CODE"
            _log.error(
                "no valid certificate", action="certificate_expired", site=self._site.name, reason=reason, remedy=remedy
            )
        else:
            _log.warning("certificate not renewed yet", action="renewal_failed", site=self._site.name, reason=reason)


def _life(leaf: x509.Certificate) -> timedelta:
    return leaf.not_valid_after_utc - leaf.not_valid_before_utc - BACKDATED


@contextmanager
def _held(enrolled: Enrolled) -> Iterator[bool]:
    """Give True while this process alone renews; False if another does."""
    descriptor = os.open(enrolled.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
