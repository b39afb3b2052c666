"""The site's commands of `overspill`."""
