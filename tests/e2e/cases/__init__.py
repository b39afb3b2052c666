"""Scripts and sessions whose diverted run must equal the one on `batch`. Cases are data; see `case.py`."""

from __future__ import annotations

from tests.e2e.cases import directives, environment, names, output, processes, scripts, site, workflows
from tests.e2e.cases.case import Case

__all__ = ["CASES", "Case"]

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
