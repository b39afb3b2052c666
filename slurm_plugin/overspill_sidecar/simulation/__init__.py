"""A history replayed under a policy: what would have been diverted, and what for. Pure."""
