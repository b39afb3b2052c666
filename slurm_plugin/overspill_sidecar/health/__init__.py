"""Whether each site may be given jobs, and telling Slurm so: its virtual nodes are drained while it may not."""

from overspill_sidecar.health.keeper import NodeKeeper
from overspill_sidecar.health.record import HealthRecord, does_end_speak_for_site, does_refusal_speak_for_site

__all__ = ["HealthRecord", "NodeKeeper", "does_end_speak_for_site", "does_refusal_speak_for_site"]
