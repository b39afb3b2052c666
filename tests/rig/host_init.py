"""PID 1 of one of the rig's hosts: mounts the host's own file system, reports itself, then waits.

Runs alone (standard library only, no import from the checkout), started by `unshare` in fresh mount, PID, UTS, IPC and
network namespaces. The host lives exactly as long as this process: the kernel kills everything in a PID namespace whose
PID 1 is gone, and the mounts go with the last process.

Argument: one JSON object with the fields `root`, `hostname`, `mounts` (arguments of mount(8)), `lease_fd`, `ready_fd`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

#: The rig's program writes this into the lease to leave the hosts running after its own end.
KEEP = b"k"


def mount_all(root: Path, mounts: list[list[str]]) -> None:
    """Mount everything under `root` and make `root` the file system of this mount namespace."""
    # pivot_root wants a mount point; chroot would do for us, but not for the bwrap that the agent runs inside.
    subprocess.run(["mount", "--bind", root, root], check=True)
    for arguments in mounts:
        subprocess.run(["mount", *arguments], check=True)
    old_root = root / ".old-root"
    old_root.mkdir()
    os.chdir(root)
    subprocess.run(["pivot_root", ".", old_root.name], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", f"/{old_root.name}"], check=True)
    Path("/", old_root.name).rmdir()


def wait_for_the_end(lease_fd: int) -> None:
    """Return when the rig's program is gone without having said that the host shall stay."""
    if os.read(lease_fd, 1) == KEEP:
        while True:
            signal.pause()


def main() -> None:
    spec = json.loads(sys.argv[1])
    os.umask(0o022)
    # /proc is still the one of the PID namespace outside: this is the pid by which the rig knows us.
    outer_pid = Path("/proc/self").readlink()
    socket.sethostname(spec["hostname"])
    mount_all(Path(spec["root"]), spec["mounts"])
    # With SIGCHLD ignored the kernel itself reaps the orphans that are handed to PID 1.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.write(spec["ready_fd"], f"{outer_pid}\n".encode())
    os.close(spec["ready_fd"])
    wait_for_the_end(spec["lease_fd"])


if __name__ == "__main__":
    main()
