"""What of pyslurm's source is compiled: the list of jobs, and nothing that a Slurm's headers may lack.

The rules keep what they name and drop the rest, so that they hold for any header; each one that does not apply any more
is an error, because then it is another pyslurm than the one they were written for.
"""

from __future__ import annotations

import re
from pathlib import Path

#: Of the package's files.
_MODULES = frozenset(
    {
        *("version.py", "constants.py", "settings.pyx", "xcollections.pyx", "xcollections.pxd", "api.pyx", "api.pxd"),
        *("core/__init__.py", "core/__init__.pxd", "core/error.pyx"),
        *("core/job/__init__.pxd", "core/job/job.pyx", "core/job/job.pxd"),
        *(f"utils/{name}" for name in ("__init__.py", "__init__.pxd", "helpers.pyx", "helpers.pxd")),
        *(f"utils/{name}.{kind}" for name in ("cstr", "ctime", "uint") for kind in ("pyx", "pxd")),
    }
)
#: Directories of declarations, which come as a whole.
_DECLARATIONS = frozenset({"slurm", "pydefines"})
#: Methods of the class Jobs.
_OF_JOBS = frozenset({"__cinit__", "__init__", "__dealloc__", "load"})
#: Methods of the class Job: what makes one, and the properties that the reader reads.
_OF_JOB = frozenset(
    {
        *("__cinit__", "__init__", "__dealloc__", "_alloc_impl", "_dealloc_impl", "from_ptr"),
        *("id", "array_id", "array_task_id", "array_tasks_waiting", "array_tasks_parallel"),
        *("user_id", "group_id", "account", "qos", "reservation", "partition", "priority", "cluster"),
        *("state", "state_reason", "allocated_nodes", "batch_host", "cpus", "allocated_tres", "requested_tres"),
        *("time_limit", "start_time", "end_time", "submit_time", "eligible_time", "deadline"),
        *("requeue_count", "is_requeueable", "admin_comment"),
        *("cores_reserved_for_system", "threads_reserved_for_system"),
    }
)
_METHOD = re.compile(r"^(?=    (?:@|def |cdef \w[\w ]*\(|cpdef ))", re.MULTILINE)
_METHOD_NAME = re.compile(r"^    (?:def|cdef|cpdef)[\w ]*?\b(\w+)\(", re.MULTILINE)
#: (file, what to replace, by what): a pattern that must be found.
_EDITS = (
    ("core/job/job.pyx", r"^from pyslurm\.core\.job\.util import \*\n", ""),
    ("core/job/job.pyx", r"^ +(self|wrap)\.(steps|stats) = .*\n", ""),
    # What a TRES text says, as text: no object for each resource of each job.
    ("core/job/job.pyx", r"TrackableResources\.from_cstr", "cstr.to_dict"),
    # The cluster's name is in slurm.conf, or in none.
    ("settings.pyx", r"^    from pyslurm\.core import slurmctld\n", ""),
    ("settings.pyx", r"^    if not LOCAL_CLUSTER:\n(?: {8}.*\n)+", ""),
    # A step's id has another field each year.
    ("utils/helpers.pyx", r"^cdef slurm_step_id_t init_step_id\(.*\n(?:(?: .*)?\n)*", ""),
    ("utils/helpers.pxd", r"^cdef slurm_step_id_t init_step_id\(.*\n", ""),
    ("core/job/job.pxd", r"^from pyslurm\.(db\.\w+|core\.job\.\w+) cimport .*\n", ""),
    ("core/job/job.pxd", r"^        (JobSteps steps|JobStatistics stats|stats)\n", ""),
    ("core/job/job.pxd", r"^    cdef _calc_run_time\(self\)\n", ""),
    ("core/job/job.pxd", r"^    @staticmethod\n    cdef _swap_data.*\n", ""),
)
_PACKAGE = '''\
"""The part of pyslurm that reads the queue. Built by Overspill's recipe (images/overspill_pyslurm) from {source}."""
import os
import sys

sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_GLOBAL | os.RTLD_DEEPBIND)

from .version import __version__
from pyslurm.api import slurm_init
from pyslurm.core.error import PyslurmError, RPCError
from pyslurm.core.job import Job, Jobs

#: The Slurm that it was compiled for.
SLURM_RELEASE = "{release}"
'''


class OtherSourceError(Exception):
    """The source is not of the pyslurm that the rules were written for."""


def prune(package: Path, *, source: str, release: str) -> None:
    """Leave of pyslurm's package directory what reads the queue.

    Args:
        package: the directory `pyslurm` of its source.
        source: what it came as, for people.
        release: of the Slurm that it is for: "24.11".

    Raises:
        OtherSourceError: naming the rule that does not apply.
    """
    for name in _MODULES:
        if not (package / name).is_file():
            raise OtherSourceError(f"{source} has no {name}")
    for path in package.rglob("*"):
        inside = path.relative_to(package)
        if path.is_file() and str(inside) not in _MODULES and inside.parts[0] not in _DECLARATIONS:
            path.unlink()
    jobs = package / "core/job/job.pyx"
    jobs.write_text(_kept_classes(jobs.read_text()))
    for name, pattern, replacement in _EDITS:
        text, found = re.subn(pattern, replacement, (package / name).read_text(), flags=re.MULTILINE)
        if not found:
            raise OtherSourceError(f"{name} of {source} has nothing like {pattern}")
        (package / name).write_text(text)
    (package / "core/job/__init__.py").write_text("from .job import Job, Jobs\n")
    (package / "__init__.py").write_text(_PACKAGE.format(source=source, release=release))


def _kept_classes(text: str) -> str:
    parts = re.split(r"^(?=cdef class )", text, flags=re.MULTILINE)
    if [part.partition(":")[0] for part in parts[1:]] != ["cdef class Jobs(MultiClusterMap)", "cdef class Job"]:
        raise OtherSourceError("job.pyx has other classes than Jobs and Job")
    return parts[0] + _kept_methods(parts[1], _OF_JOBS) + _kept_methods(parts[2], _OF_JOB)


def _kept_methods(text: str, kept: frozenset[str]) -> str:
    """Return a class with these of its methods; each has its decorators before it."""
    head, *blocks = _METHOD.split(text)
    methods: dict[str, str] = {}
    decorators = ""
    for block in blocks:
        name = _METHOD_NAME.search(block)
        if name is None:
            decorators += block
            continue
        methods[name[1]] = decorators + _until_margin(block)
        decorators = ""
    if missing := kept - methods.keys():
        raise OtherSourceError(f"job.pyx has no {', '.join(sorted(missing))}")
    return head + "".join(method for name, method in methods.items() if name in kept)


def _until_margin(block: str) -> str:
    """Return a block without what follows its class."""
    end = re.search(r"^\S", block, re.MULTILINE)
    return block[: end.start()] if end else block
