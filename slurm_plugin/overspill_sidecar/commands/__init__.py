"""The cluster's commands of `overspill`."""
