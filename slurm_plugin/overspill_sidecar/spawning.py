"""Starting a program while our other threads go on.

`subprocess` and `os.posix_spawn` keep Python's lock until the new program runs: milliseconds (7 on a busy host) in
which no submission is decided. posix_spawn(3) called by ctypes lets it go. Source: glibc's spawn.h, sigset_t.h.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable, Mapping, Sequence

_LIBC = ctypes.CDLL(None)
_SET_DEFAULT_SIGNALS, _SET_SESSION = 0x04, 0x80
#: More than any libc's posix_spawnattr_t, posix_spawn_file_actions_t or sigset_t has.
_OPAQUE_BYTES = 1024
#: Python ignores them, which a program would inherit.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


def start(argv: Sequence[str], env: Mapping[str, str], descriptors: Sequence[int]) -> int:
    """Start a program, found as by execvp(3), as the leader of a session of its own; return its process id.

    Args:
        argv: what to run.
        env: its environment.
        descriptors: what becomes its standard input, output and error; it gets no other that Python has made.

    Raises:
        OSError: if it cannot be run.
        ValueError: if an argument holds a null byte.
    """
    process_id = ctypes.c_int()
    arguments = _strings(map(os.fsencode, argv))
    variables = _strings(os.fsencode(name) + b"=" + os.fsencode(value) for name, value in env.items())
    attributes, actions, signals = (ctypes.create_string_buffer(_OPAQUE_BYTES) for _ in range(3))
    _check(_LIBC.posix_spawnattr_init(attributes))
    _check(_LIBC.posix_spawn_file_actions_init(actions))
    try:
        _LIBC.sigemptyset(signals)
        for ignored in _IGNORED:
            _LIBC.sigaddset(signals, ignored)
        _check(_LIBC.posix_spawnattr_setsigdefault(attributes, signals))
        _check(_LIBC.posix_spawnattr_setflags(attributes, ctypes.c_short(_SET_DEFAULT_SIGNALS | _SET_SESSION)))
        for number, descriptor in enumerate(descriptors):
            _check(_LIBC.posix_spawn_file_actions_adddup2(actions, descriptor, number))
        # Python's are closed anyway. Since glibc 2.34 those can be, too, that something else has left open.
        if hasattr(_LIBC, "posix_spawn_file_actions_addclosefrom_np"):
            _check(_LIBC.posix_spawn_file_actions_addclosefrom_np(actions, len(descriptors)))
        program = os.fsencode(argv[0])
        _check(_LIBC.posix_spawnp(ctypes.byref(process_id), program, actions, attributes, arguments, variables))
    finally:
        _LIBC.posix_spawn_file_actions_destroy(actions)
        _LIBC.posix_spawnattr_destroy(attributes)
    return process_id.value


def _strings(texts: Iterable[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """Return a C array of strings that ends with a null pointer."""
    known = list(texts)
    if any(b"\0" in text for text in known):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(known) + 1))(*known, None)


def _check(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))
