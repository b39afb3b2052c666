"""The runner on the interpreters of the systems that jobs run in, as PID 1 of a container and as any other process.

`OVERSPILL_TEST_SUITES="bullseye bookworm trixie forky" pytest tests/integration/test_runner_pythons.py` tries all of
Debian's; by default those whose trees the images are made of.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from overspill_images.cache import CACHE, locked
from overspill_images.debian import base_tree, lend_apt
from tests.integration.runner_agent import RUNNER, running, work_in

_SUITES = os.environ.get("OVERSPILL_TEST_SUITES", "trixie forky").split()
_INSTALL = ("apt-get", "--quiet", "--yes", "--no-install-recommends", "--option", "Acquire::Check-Valid-Until=false")
_PROCESSES = """
exec /usr/bin/python3 - <<'PYTHON'
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for has_session in (False, True):
    if not os.fork():
        if has_session:
            os.setsid()
            if os.fork():
                os._exit(0)
        while True:
            time.sleep(60)
print("ready", flush=True)
while True:
    time.sleep(60)
PYTHON
"""


def tree_with_python(suite: str) -> Path:
    """Return a tree of a Debian with its Python, made once per machine; not to be written into."""
    base = base_tree(suite)
    tree = CACHE / "python-trees" / base.name
    with locked(tree.with_suffix(".lock")):
        if not tree.exists():
            partial = tree.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            subprocess.run(["cp", "-a", str(base), str(partial)], check=True)
            lend_apt(partial)
            for command in (("update",), ("install", "python3")):
                subprocess.run(["chroot", str(partial), *_INSTALL, *command], check=True, stdout=subprocess.DEVNULL)
            partial.rename(tree)
    return tree


@pytest.fixture(params=[True, False], ids=["PID 1", "not PID 1"])
def is_first(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=_SUITES)
def prefix(request: pytest.FixtureRequest, is_first: bool, tmp_path: Path) -> list[str]:  # noqa: FBT001
    """Return what starts a program in the suite's tree, with the runner and the test's directory as they are here."""
    tree = tree_with_python(request.param)
    first = ["--unshare-pid", "--as-pid-1", "--new-session"] if is_first else []
    view = ["--tmpfs", "/", "--ro-bind", str(tree / "usr"), "/usr", "--ro-bind", str(tree / "etc"), "/etc"]
    for name in ("bin", "lib", "lib64"):
        view += ["--symlink", f"usr/{name}", f"/{name}"]
    own = ["--bind", str(tmp_path), str(tmp_path), "--ro-bind", str(RUNNER), str(RUNNER)]
    return ["bwrap", *first, *view, "--proc", "/proc", "--dev", "/dev", *own, "--"]


@pytest.mark.timeout(600)  # the first on a machine makes the tree
def test_a_script_has_its_output_its_signals_and_its_exit_code(tmp_path: Path, prefix: list[str]) -> None:
    script = (
        "echo on stdout; echo on stderr >&2; trap 'echo USR1; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    )
    with running(work_in(tmp_path, script), tmp_path / "own", prefix) as (agent, runner):
        agent.wait_until(lambda: b"ready" in agent.stdout)
        agent.break_connections()
        agent.signal(signal.SIGUSR1, "shell")
        assert runner.wait() == 0, runner.log
    assert agent.stdout == b"on stdout\nready\nUSR1\n"
    assert agent.stderr == b"on stderr\n"
    assert agent.reports[-1]["exit_code"] == 7
    assert "Traceback" not in runner.log


@pytest.mark.timeout(600)
def test_a_tree_that_ignores_term_is_killed_to_its_last_process(tmp_path: Path, prefix: list[str]) -> None:
    with running(work_in(tmp_path, _PROCESSES), tmp_path / "own", prefix) as (agent, runner):
        agent.wait_until(lambda: agent.stdout == b"ready\n")
        agent.signal(signal.SIGTERM)
        agent.wait_until(lambda: agent.reports_of("signalled"))
        agent.signal(signal.SIGKILL)
        # The runner ends after the last of its descendants only.
        assert runner.wait() == 0, runner.log
    assert agent.reports[-1]["signal"] == signal.SIGKILL
