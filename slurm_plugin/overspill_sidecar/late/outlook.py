"""How long a pending job will have waited when it starts at home."""

from __future__ import annotations

from collections.abc import Callable

from overspill_sidecar.cluster import Job
from overspill_sidecar.wait import WaitEstimate
from overspill_sidecar.watch import Picture

#: The whole wait, what has passed of it included, of a pending job in one of its own partitions. Of an array it is that
#: of the task that starts last. None: nobody knows.
Outlook = Callable[[Job, str], WaitEstimate | None]


def outlook_of(picture: Picture) -> Outlook:
    """Return the outlook by the picture's model."""
    return picture.model.pending
