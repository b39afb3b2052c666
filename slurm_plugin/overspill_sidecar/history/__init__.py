"""Jobs of the past: what they were, and the files that tell of them. Pure."""

from overspill_sidecar.history.completion_log import read_completion_log
from overspill_sidecar.history.moments import Kind, Moment, moments
from overspill_sidecar.history.past_job import PastJob
from overspill_sidecar.history.sacct import SACCT_FIELDS, read_sacct, sacct_argv
from overspill_sidecar.history.swf import processors_of_swf, read_swf

__all__ = [
    "SACCT_FIELDS",
    "Kind",
    "Moment",
    "PastJob",
    "moments",
    "processors_of_swf",
    "read_completion_log",
    "read_sacct",
    "read_swf",
    "sacct_argv",
]
