"""Builds the .deb and .rpm packages that `packaging/packages.toml` describes."""
