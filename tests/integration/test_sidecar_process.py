"""The sidecar as a process: started, asked, told to stop, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.sidecar_agent import Certificates
from tests.integration.test_sidecar_commands import Programs

_DEADLINE_S = 60.0


class Service:
    """One sidecar's files, commands and process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "bin").mkdir()
        self.programs = Programs(directory / "bin")
        tls = Certificates(directory / "tls").files("cluster", "rig")
        self.router_socket = directory / "router.sock"
        self.relay_socket = directory / "relay.sock"
        self.config = directory / "sidecar.toml"
        self.config.write_text(
            f'[slurm]\nrefresh_s = 0.5\n[router]\nsocket = "{self.router_socket}"\n'
            f'[relay]\nsocket = "{self.relay_socket}"\n'
            '[[sites]]\nname = "site-a"\npartition = "overspill"\nagent = "localhost:1"\n'
            f'tls = {{ certificate = "{tls.certificate}", private_key = "{tls.private_key}", ca = "{tls.ca}" }}\n'
        )
        self.process: subprocess.Popen[str] | None = None

    def _command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        environment = os.environ | {"PATH": f"{self._directory}/bin:{os.environ['PATH']}"}
        return [sys.executable, "-m", "overspill_sidecar", *arguments], environment

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv, environment = self._command(*arguments, "--config", str(self.config))
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call `overspill` with this service's configuration."""
        _, environment = self._command()
        argv = [sys.executable, "-m", "overspill.cli", *arguments]
        environment["OVERSPILL_SIDECAR_CONFIG"] = str(self.config)
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def start(self, *arguments: str) -> None:
        argv, environment = self._command("run", "--config", str(self.config), *arguments)
        self.process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
        self.wait_for_line("started")

    def wait_for_line(self, action: str) -> dict[str, object]:
        """Return the log line with this action; fail if the process ends first."""
        assert self.process is not None
        assert self.process.stderr is not None
        for line in self.process.stderr:
            entry: dict[str, object] = json.loads(line)
            if entry["action"] == action:
                return entry
        raise AssertionError(f"ended with {self.process.wait()} and never said {action}")

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(timeout=_DEADLINE_S)
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.process = None
        return status


@pytest.fixture(name="service")
def _service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    if service.process is not None:
        service.end(signal.SIGKILL)


def _decided(service: Service, *arguments: str) -> dict[str, object]:
    """Return the answer once the router has seen the queue."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        asked = service.ask("decide", "--json", *arguments)
        assert asked.returncode == 0, asked.stderr
        answer: dict[str, object] = json.loads(asked.stdout)
        if answer["reason"] != "mode_off":
            return answer
        assert time.monotonic() < deadline, "the policy is never seen"


def test_it_starts_answers_and_leaves_nothing_behind_when_told_to_stop(service: Service) -> None:
    service.start()
    assert _decided(service)["verdict"] == "LOCAL"
    assert _decided(service, "--overspill", "always")["reason"] == "site_unreachable"
    assert service.end(signal.SIGTERM) == 0
    assert not service.router_socket.exists()
    assert not service.relay_socket.exists()


def test_a_hang_up_changes_nothing(service: Service) -> None:
    service.start()
    assert service.process is not None
    service.process.send_signal(signal.SIGHUP)
    service.wait_for_line("hangup")
    assert _decided(service)["verdict"] == "LOCAL"


def test_killed_it_leaves_sockets_that_the_next_one_clears_away(service: Service) -> None:
    service.start()
    assert service.end(signal.SIGKILL) == -signal.SIGKILL
    assert service.relay_socket.exists()
    service.start()
    assert service.end(signal.SIGTERM) == 0


def test_each_role_takes_its_own_socket(service: Service) -> None:
    service.start("--role", "router")
    assert service.router_socket.exists()
    assert not service.relay_socket.exists()
    assert service.end(signal.SIGTERM) == 0
    service.start("--role", "relay")
    assert not service.router_socket.exists()
    assert service.relay_socket.exists()


def test_a_second_one_says_why_it_does_not_start(service: Service) -> None:
    service.start()
    second = service.call("run")
    assert second.returncode == 1
    assert f"another sidecar serves {service.router_socket}: stop it first" in second.stderr
    assert "Traceback" not in second.stderr
    assert _decided(service)["verdict"] == "LOCAL"


def test_a_router_that_does_not_run_is_said_in_one_line(service: Service) -> None:
    asked = service.ask("decide")
    assert asked.returncode == 1
    assert f"the router is not running on this host ({service.router_socket} is not there)" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_help_shows_examples(service: Service) -> None:
    argv, environment = service._command("run", "--help")  # noqa: SLF001
    shown = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "overspill-sidecar run --role relay" in shown
