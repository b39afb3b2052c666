"""The sections of what the agent serves and keeps."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from overspill.runner_protocol import KEEPALIVE_S
from overspill.tls import TlsFiles
from overspill_agent.config.section import AbsolutePath, HttpsUrl, Listen, Section


class Tls(Section):
    """PEM files."""

    certificate: AbsolutePath
    private_key: AbsolutePath
    ca: AbsolutePath

    def files(self) -> TlsFiles:
        return TlsFiles(certificate=self.certificate, private_key=self.private_key, ca=self.ca)


class Server(Section):
    """The gRPC service for clusters' relays. Without `tls` it has the certificate of the site's own authority."""

    listen: Listen
    tls: Tls | None = None


class RunnerChannel(Section):
    """The HTTPS service for runners.

    Attributes:
        url: how runners reach it; the host must be a name in the certificate.
        lease_s: a runner that hears nothing of the agent for so long stops its job. With the time that takes it must
            stay below the 120 s after which Slurm may start a requeued job again.
        spool_mib: so much output a runner keeps on its disk while the agent is away, so that its job goes on writing.
        tls: as for `Server`.
    """

    listen: Listen
    url: HttpsUrl
    tls: Tls | None = None
    lease_s: int = Field(default=90, gt=2 * KEEPALIVE_S)
    spool_mib: int = Field(default=512, ge=0)


class Reconcile(Section):
    """How long the agent tries.

    Attributes:
        shortage_s: a run that cannot be started for so long, because no slot becomes free, the site is too short of
            something or its queue does not answer, is given back to its cluster.
    """

    shortage_s: int = Field(default=600, ge=0)


class Pki(Section):
    """The site's own authority, which `overspill pki init` makes.

    Attributes:
        directory: where it is; the agent renews its own certificate there.
        certificate_life_s: how long a certificate is valid that it issues; the holder renews it after two thirds.
    """

    directory: AbsolutePath = Path("/var/lib/overspill-agent/pki")
    certificate_life_s: int = Field(default=30 * 86_400, ge=15, le=398 * 86_400)

    @property
    def agent_files(self) -> TlsFiles:
        """What the agent shows, and what it trusts. Certificate and key are one file, replaced in one step."""
        agent = self.directory / "agent.pem"
        return TlsFiles(certificate=agent, private_key=agent, ca=self.directory / "ca.pem")


class StoreSection(Section):
    """Where the agent's memory is. Output and standard input are kept in `spool` beside it.

    Attributes:
        path: the database; its directory is the agent's own.
        reserve_mib: disk space that neither new runs nor output may take: what ends and frees runs is written there.
    """

    path: AbsolutePath
    reserve_mib: int = Field(default=64, ge=1)

    @property
    def spool_directory(self) -> Path:
        return self.path.parent / "spool"
