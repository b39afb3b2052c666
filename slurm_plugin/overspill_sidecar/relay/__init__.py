"""The relay: between each proxy on a Unix socket and the agent of the job's site."""

from overspill_sidecar.relay.server import Relay

__all__ = ["Relay"]
