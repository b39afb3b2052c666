"""Late diversion and recall: pending jobs are looked at again, because a queue changes after a submission.

Read `overspill_sidecar.pending` (which jobs are looked at), `changes` (what is told to Slurm) and, last, `looking`, the
loop that puts them together.
"""

from overspill_sidecar.late.looking import LateLook

__all__ = ["LateLook"]
