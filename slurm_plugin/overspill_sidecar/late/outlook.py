"""How long a pending job will have waited when it starts at home."""

from __future__ import annotations

from overspill_sidecar.pending.candidates import Outlook
from overspill_sidecar.watch import Picture


def outlook_of(picture: Picture) -> Outlook:
    """Return the outlook by the picture's model."""
    return picture.model.pending
