"""What can go wrong with a rig.

RigError
├── AlreadyUpError   a rig of this name runs already
├── NotUpError       no rig of this name runs
├── CommandError     a command inside a host failed or took too long
├── DaemonError      a daemon did not start or stop; carries the tail of its log
└── JobStateError    a job ended otherwise than the test waits for, or not in time
"""

from __future__ import annotations


class RigError(Exception):
    """The rig, or something in it, did not do what was asked."""


class AlreadyUpError(RigError):
    """A rig in this directory runs already."""


class NotUpError(RigError):
    """No rig runs in this directory."""


class CommandError(RigError):
    """A command inside a host failed or took too long."""


class DaemonError(RigError):
    """A daemon did not start or did not stop."""


class JobStateError(RigError, AssertionError):
    """A job is not in the state that was waited for; an assertion of the test has failed."""
