"""Reading Slurm's state and moving its jobs: one Protocol, Slurm's own commands, and pyslurm for the queue."""

from overspill_sidecar.slurm.command_line import CommandLineView, ask_jobs, view_of
from overspill_sidecar.slurm.memory import InMemoryView
from overspill_sidecar.slurm.readers import FittingReader, PyslurmReader, QueueReader, SqueueReader
from overspill_sidecar.slurm.view import ClusterView

__all__ = [
    "ClusterView",
    "CommandLineView",
    "FittingReader",
    "InMemoryView",
    "PyslurmReader",
    "QueueReader",
    "SqueueReader",
    "ask_jobs",
    "view_of",
]
