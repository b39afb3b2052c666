"""Reading Slurm's state and moving its jobs: one Protocol, and the reader that uses Slurm's own commands."""

from overspill_sidecar.slurm.command_line import CommandLineView, ask_jobs
from overspill_sidecar.slurm.memory import InMemoryView
from overspill_sidecar.slurm.view import ClusterView

__all__ = ["ClusterView", "CommandLineView", "InMemoryView", "ask_jobs"]
