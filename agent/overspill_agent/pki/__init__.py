"""The site's certificate authority: its own certificate, the clusters' certificates, and the codes to get one with."""

from overspill_agent.pki.authority import Authority
from overspill_agent.pki.invitations import Invitations

__all__ = ["Authority", "Invitations"]
