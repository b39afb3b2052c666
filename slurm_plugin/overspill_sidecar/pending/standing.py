"""Whose a pending job's partition list is: its user's, ours, or somebody's who changed it after us. Pure.

The job itself carries all that is needed (its trail), so that a router that restarts knows as much as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from overspill_sidecar.cluster import Job, limit_text

#: At most one change each way per job in this time.
BETWEEN_CHANGES_S = 3600.0


class Standing(StrEnum):
    #: As its user submitted it.
    OWN = "own"
    #: Its list is its own partitions and its site's, as we left it.
    DIVERTED = "diverted"
    #: We have changed it before, and its list is its own partitions again, as we left it.
    HOME = "home"
    #: The user or an admin has the last word: its list is none of those that we would have left. Left alone for good.
    THEIRS = "theirs"


def standing_of(job: Job, partition_of_site: Mapping[str, str]) -> Standing:
    """Return the job's standing.

    Args:
        job: a pending job.
        partition_of_site: the overspill partition of each site.
    """
    listed, trail = frozenset(job.partitions), job.trail
    if trail is None:
        return Standing.THEIRS if listed & frozenset(partition_of_site.values()) else Standing.OWN
    if not trail.partition or trail.time_limit not in {"", limit_text(job.time_limit_s)}:
        return Standing.THEIRS
    own, target = frozenset(trail.partition.split(",")), partition_of_site.get(trail.site)
    if target is not None and listed == own | {target} and target not in own:
        return Standing.DIVERTED
    is_left_home = not trail.site or trail.site in trail.refused_by
    return Standing.HOME if listed == own and is_left_home else Standing.THEIRS


def may_be_added(job: Job, now_s: float) -> bool:
    """Tell whether the last time that a site's partition was added is long enough ago; a submission counts as one."""
    if job.trail is None:
        return True
    return now_s - (job.trail.added_at_s or job.submit_time_s) >= BETWEEN_CHANGES_S


def may_be_recalled(job: Job, now_s: float) -> bool:
    """Tell whether the last recall is long enough ago."""
    return job.trail is not None and now_s - job.trail.recalled_at_s >= BETWEEN_CHANGES_S
