"""Which sessions tell one back end from another. Data.

Most cases are about the road between the user's shell and the runner, which all back ends share. What a back end itself
makes, and so may make differently, is: who the job is, where it is, what it may do, how it is started, signalled and
stopped, how its output gets to the runner's pipes. Of each of these a few cases are played in `make test` on each back
end; all of them by `make compare BACKEND=...`.
"""

from __future__ import annotations

from tests.rig.site_backend import SiteBackend

TELLING = (
    # who the job is, and what it finds
    *("environment", "export-none", "identity", "ulimits", "a-file-size-limit", "priorities", "no-terminal"),
    *("open-descriptors", "signals-ignored-and-blocked", "leads-its-process-group", "standard-input"),
    *("variables-of-a-shaped-job", "temporary-directory", "user-with-a-dot-and-a-dash"),
    # where it is
    *("working-directory-and-umask", "a-strict-umask", "chdir", "submitted-from-tmp", "directory-with-newline"),
    *("directory-with-not-utf-8", "directory-with-shell", "directory-with-blanks-in-a-shared-home"),
    # how it is started
    *("python-shebang", "missing-interpreter", "script-of-almost-4-mib", "script-that-looks-at-itself"),
    # how it ends, and what is left
    *(
        "last-command-decides",
        "kill-0-ends-the-group",
        "left-behind-daemon",
        "two-hundred-processes",
        "wait-for-a-signal",
    ),
    *("cancelled", "cancelled-with-a-trap", "cancelled-while-term-is-ignored", "signalled-and-survived"),
    *("requeued-and-appended", "array-task-cancelled", "array-of-odd-indices", "afterok-of-an-array-with-a-failure"),
    # how its output comes
    *("every-byte", "joined-streams-keep-their-order", "output-in-the-last-instant", "separate-streams"),
)
#: What differs by nature, by back end: docs/differences.md says why.
DIFFERENT: dict[SiteBackend, frozenset[str]] = {
    SiteBackend.LOCAL: frozenset(),
    SiteBackend.DOCKER: frozenset(),
    SiteBackend.HTCONDOR: frozenset(
        {
            # no supplementary groups
            "identity",
            # no such name can be a job's owner
            "user-with-an-at-sign-and-blanks",
        }
    ),
}
