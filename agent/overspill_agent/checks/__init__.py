"""What `overspill check` looks at on the site's side."""

from overspill_agent.checks.side import SITE

__all__ = ["SITE"]
