"""What a case is: what a user types in a directory."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Variables that name the node, the partition or the attempt: they differ between any two local jobs, too.
PLACE_VARIABLES = (
    "SLURM_JOB_PARTITION",
    "SLURM_TOPOLOGY_ADDR",
    "SLURM_TASK_PID",
    "SLURM_JOB_START_TIME",
    "SLURM_JOB_END_TIME",
    "HOSTNAME",
    "SLURM_SPANK__SLURM_SPANK_OPTION_overspill_overspill",
)
SHOW_ENVIRONMENT = "env -0 | sort -z | tr '\\n\\0' '~\\n' | grep -avE '^(" + "|".join(PLACE_VARIABLES) + ")='"


@dataclass(frozen=True, slots=True)
class Case:
    """A user's session: by default one `sbatch` of one script.

    Attributes:
        name: of the test.
        script: content of `job.sh`.
        arguments: of the script.
        options: of sbatch.
        environment: what is added to the login's.
        prelude: shell lines before sbatch: umask, ulimit.
        files: further files of the directory, `job.sh` being one.
        session: shell lines in place of `prelude` and that one sbatch. In them `sbatch` goes the way that is being
            tried; what else they may call is in `session.sh`. What they print is compared, too.
        directory: name of the directory in which all this happens; the case's name by default.
        user: who does it.
        needs_home: the site must see the user's files: its /home is the cluster's.
        is_diverted: Overspill takes these jobs. Of those that it leaves alone the comparison says that it does.
    """

    name: str
    script: str | bytes = ""
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    prelude: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    session: str = ""
    directory: str = ""
    user: str = "alice"
    needs_home: bool = False
    is_diverted: bool = True

    @property
    def commands(self) -> str:
        """The session's shell lines."""
        return self.session or f"{self.prelude}\n{shlex.join(['sbatch', *self.options, 'job.sh', *self.arguments])}\n"


def bash(body: str) -> str:
    """Return a bash script."""
    return f"#!/bin/bash\n{body}\n"
