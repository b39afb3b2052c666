"""What `overspill check` looks at on the cluster's side."""

from overspill_sidecar.checks.side import CLUSTER

__all__ = ["CLUSTER"]
