"""Builds the images that Overspill's jobs and its rig run in, with or without a registry: `make images`."""
