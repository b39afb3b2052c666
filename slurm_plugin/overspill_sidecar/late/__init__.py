"""Late diversion and recall: pending jobs are looked at again, because a queue changes after a submission.

Read `standing` (whose job is it), `candidates` (which jobs are looked at), `request` (what a pending job asks for, as
`decision` wants it), `changes` (what is told to Slurm) and, last, `looking`, the loop that puts them together.
"""

from overspill_sidecar.late.looking import LateLook

__all__ = ["LateLook"]
