"""The runner cannot import the contract; it is held to it here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from overspill import runner_protocol
from overspill_runner import runner

SOURCE = Path(runner.__file__).read_text()


def test_numbers_are_the_contracts() -> None:
    assert runner.PATH_PREFIX == runner_protocol.PATH_PREFIX
    assert runner.FRAME_HEADER.format == runner_protocol.FRAME_HEADER.format
    assert runner.MAX_FRAME_BYTES == runner_protocol.MAX_FRAME_BYTES
    assert runner.KEEPALIVE_S == runner_protocol.KEEPALIVE_S
    frames = {"STDOUT": runner.STDOUT, "STDERR": runner.STDERR, "REPORT": runner.REPORT}
    assert frames == {frame.name: frame.value for frame in runner_protocol.RunnerFrame}


def test_source_is_python_3_8() -> None:
    ast.parse(SOURCE, feature_version=(3, 8))


def test_only_the_standard_library_is_imported() -> None:
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", ["removeprefix", "removesuffix", "pidfd_open", "waitstatus_to_exitcode", "cache"])
def test_nothing_newer_than_3_8_is_called(name: str) -> None:
    attributes = {node.attr for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Attribute)}
    assert name not in attributes


def test_the_standard_library_of_3_8_has_all_that_is_used() -> None:
    vermin = str(Path(sys.executable).with_name("vermin"))
    floor = [vermin, "--target=3.8-", "--violations", "--no-tips", "--no-eval-annotations"]
    done = subprocess.run([*floor, runner.__file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
