"""The rig's certificates: the product's own authority, and what a test shows to be refused."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from overspill.certificates import key_pem, new_key, signing_request, utc_now
from overspill_agent.config import Pki
from overspill_agent.pki import Authority
from tests.rig.tree import ADDRESSES

_LIFE_S = 3600


class Certificates:
    """The site's authority, as `overspill pki init` makes it, in a directory."""

    def __init__(self, directory: Path) -> None:
        """Take the authority in `directory`, or found one there with a certificate for an agent on the host `site`.

        It is good for that host's address, too: inside containers no name is known.
        """
        self._directory = directory
        self._authority = _authority(directory)

    @property
    def ca_certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._authority.ca_pem

    def copy_to(self, directory: Path) -> None:
        """Give the agent the authority's files."""
        shutil.copytree(self._directory, directory)

    def issue(self, cluster: str, *, is_expired: bool = False, is_foreign: bool = False) -> bytes:
        """Issue a cluster's certificate; return it with its key, PEM, as `cluster.pem` holds them.

        Args:
            cluster: the Slurm cluster's name.
            is_expired: its life ended an hour ago.
            is_foreign: it is signed by another authority, which nobody trusts.
        """
        key, now = new_key(), utc_now()
        issued_at = now - timedelta(hours=1, seconds=_LIFE_S) if is_expired else now
        with TemporaryDirectory() as elsewhere:
            authority = _authority(Path(elsewhere) / "pki") if is_foreign else self._authority
            authority.life = timedelta(seconds=_LIFE_S) if is_expired else authority.life
            certificate = authority.issue_to_cluster(cluster, signing_request(key), issued_at, how="issue")
        return key_pem(key) + certificate


def _authority(directory: Path) -> Authority:
    authority = Authority(Pki(directory=directory))
    if not authority.exists:
        authority.create(["site", ADDRESSES["site"]], utc_now())
    return authority
