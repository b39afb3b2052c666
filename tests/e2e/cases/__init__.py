"""Scripts and sessions whose diverted run must equal the one on `batch`. Cases are data; see `case.py`."""

from __future__ import annotations

from tests.e2e.cases import back_ends, directives, environment, names, output, processes, scripts, site, workflows
from tests.e2e.cases.case import Case
from tests.rig.site_backend import SiteBackend

__all__ = ["CASES", "Case", "cases_for", "telling_cases_for"]

CASES: tuple[Case, ...] = (
    *scripts.CASES,
    *environment.CASES,
    *output.CASES,
    *processes.CASES,
    *directives.CASES,
    *names.CASES,
    *workflows.CASES,
    *site.CASES,
)


def cases_for(backend: SiteBackend) -> list[Case]:
    """Return the cases that are the same at home and on this back end."""
    return [case for case in CASES if case.name not in back_ends.DIFFERENT[backend]]


def telling_cases_for(backend: SiteBackend) -> list[Case]:
    """Return those of them in which this back end could be noticed."""
    return [case for case in cases_for(backend) if case.name in back_ends.TELLING]
