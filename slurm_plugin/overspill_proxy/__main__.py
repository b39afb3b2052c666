"""Entry: `python3 -I -S __main__.py SOCKET ARGV0 [ARGUMENT...]`, in place of the batch script.

A program's main file is compiled at every start, so there is little in here; what it imports comes from `__pycache__`.
Exit codes are the script's own. `EXIT_DEFECT` tells that the proxy itself has failed.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # see signals.py

# An interrupt that comes this early ends the proxy like TERM does, not by a traceback in the user's output.
signal.signal(signal.SIGINT, signal.SIG_DFL)

#: EX_SOFTWARE of sysexits.h.
EXIT_DEFECT = 70


def _make_packages_importable() -> None:
    """Add the directory of both packages; in a source checkout `overspill` lies apart, in ../../proto.

    Isolated mode (`-I`) leaves the program's own directory out of `sys.path`, and a user's PYTHONPATH with it.
    """
    library = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path += [library, os.path.join(os.path.dirname(library), "proto")]


def main() -> None:
    """Be the job until the relay tells how it ended; end the process in the same way."""
    try:
        from overspill_proxy import ending, job, loop  # noqa: PLC0415 (found only once sys.path is complete)

        socket_path, argument_count = sys.argv[1], len(sys.argv) - 2
        ending.end_like(loop.Proxy(socket_path, job.read(argument_count)).run())
    except Exception as error:  # noqa: BLE001 (the process's edge: no traceback into the user's output)
        message = f"overspill: defect: the proxy failed: {type(error).__name__}: {error}\n"
        os.write(2, message.encode(errors="replace"))
    os._exit(EXIT_DEFECT)


if __name__ == "__main__":
    _make_packages_importable()
    main()
