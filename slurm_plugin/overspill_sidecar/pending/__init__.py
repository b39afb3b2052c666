"""Which pending jobs are worth a second look, in the router (`late`) and in a simulation alike. Pure.

Read `standing` (whose job is it), then `candidates` (which jobs are looked at), then `request` (what a pending job asks
for, as `decision` wants it).
"""
