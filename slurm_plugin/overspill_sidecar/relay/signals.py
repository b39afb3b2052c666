"""What a signal that reached the proxy means for the remote processes. Pure."""

from __future__ import annotations

import signal

from overspill.v1 import agent_pb2

#: Signals by which Slurm suspends or resumes a job: all its processes get them.
_FOR_EVERYBODY = frozenset({signal.SIGSTOP, signal.SIGCONT})
#: Signals that end a script that has not begun.
ENDING = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})


def remote_signal(number: int, *, is_job_ending: bool) -> tuple[int, agent_pb2.SignalScope.ValueType]:
    """Return the signal to deliver at the site and to whom.

    Slurm ends a job's processes by TERM and by no other signal that can be caught. TERM of a job that Slurm is not
    ending, and any other signal, come from `scancel --batch` or `--signal=B:…`, which mean the shell alone; a plain
    `scancel -s` reaches no batch step. (`scancel --full`, which means the shell and its children, cannot be told from
    `--batch` here.) The order in which TERM and CONT arrive tells nothing: `B:TERM` brings both, in either order
    (seen on 22.05).

    `scontrol suspend` sends TSTP, which a process may ignore, and STOP two seconds later, which no proxy can forward:
    the remote processes get STOP at once.
    """
    if number == signal.SIGTSTP:
        number = signal.SIGSTOP
    is_for_everybody = number in _FOR_EVERYBODY or (number == signal.SIGTERM and is_job_ending)
    return int(number), agent_pb2.SIGNAL_SCOPE_TREE if is_for_everybody else agent_pb2.SIGNAL_SCOPE_SHELL
