"""What a shell may complete: job ids, sites and policy words, within the time that a person waits for a Tab."""

from __future__ import annotations

import subprocess

import click

from overspill_sidecar.commands.cluster import Cluster
from overspill_sidecar.policy import WORDS

_DEADLINE_S = 1.0


def job_ids(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the caller's jobs' ids; root's are everybody's."""
    argv = ["squeue", "--noheader", "--all", "--states=all", "--format=%i"]
    try:
        listed = subprocess.run(argv, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [job_id for job_id in listed.stdout.split() if job_id.startswith(incomplete)]


def policy_words(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return what the last of several words, joined by commas, may be."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{word.name}=" for word in WORDS.values() if word.name.startswith(last)]


def site_names(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in Cluster.here().site_by_partition.values() if name.startswith(incomplete)]
