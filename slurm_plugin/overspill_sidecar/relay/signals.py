"""What a signal that reached the proxy means for the remote processes. Pure."""

from __future__ import annotations

import signal

from overspill.v1 import agent_pb2

#: Signals by which Slurm ends, suspends or resumes a job: all its processes get them. Any other can only come from
#: `scancel --batch` or `--signal=B:…`, because a plain `scancel -s` reaches no batch step.
_FOR_EVERYBODY = frozenset(
    {
        signal.SIGTERM,
        signal.SIGSTOP,
        signal.SIGCONT,
        signal.SIGKILL,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
    }
)
#: Signals by which Slurm ends a batch step.
ENDING = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})


def remote_signal(number: int) -> tuple[int, agent_pb2.SignalScope.ValueType]:
    """Return the signal to deliver at the site and to whom.

    `scontrol suspend` sends TSTP, which a process may ignore, and STOP two seconds later, which no proxy can forward:
    the remote processes get STOP at once.
    """
    if number == signal.SIGTSTP:
        number = signal.SIGSTOP
    scope = agent_pb2.SIGNAL_SCOPE_TREE if number in _FOR_EVERYBODY else agent_pb2.SIGNAL_SCOPE_SHELL
    return int(number), scope
