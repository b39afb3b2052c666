"""`overspill`: its frame, whatever the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from overspill.cli import main
from overspill.cli.check import look
from overspill.cli.finding import Finding, Side, error, ok, warning
from overspill.cli.output import duration, printable, styled
from overspill.errors import UnavailableError


@pytest.fixture(name="failing")
def _failing() -> Iterator[list[Exception]]:
    """A command `fail` that raises what the test puts into the list."""
    errors: list[Exception] = []

    @click.command("fail")
    def fail() -> None:
        raise errors[0]

    main.add_command(fail)
    yield errors
    del main.commands["fail"]


def test_an_expected_failure_is_one_line_and_exit_code_1(failing: list[Exception]) -> None:
    failing.append(UnavailableError("nobody answers: start it"))
    result = CliRunner().invoke(main, ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "overspill: nobody answers: start it\n")


def test_a_failures_reason_cannot_steer_the_terminal(failing: list[Exception]) -> None:
    failing.append(UnavailableError("job \x1b[2J\x07 is gone"))
    assert "\x1b" not in CliRunner().invoke(main, ["fail"]).stderr


def test_a_defect_is_one_line_that_says_where_the_traceback_is(failing: list[Exception]) -> None:
    failing.append(KeyError("surprise"))
    result = CliRunner().invoke(main, ["fail"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "KeyError: 'surprise'" in line
    kept = Path(line.rpartition(" ")[2])
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.unlink()


@pytest.mark.parametrize("arguments", [["nonsense"], ["check", "--side", "moon"], ["completion", "csh"]])
def test_a_wrong_call_is_exit_code_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_overspill(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_OVERSPILL_COMPLETE={shell}_complete" in result.stdout


def _side(name: str, configuration: Path, *findings: Finding) -> Side:
    return Side(name, lambda: configuration, lambda _: findings)


def test_only_the_sides_configured_here_are_looked_at(tmp_path: Path) -> None:
    here, absent = tmp_path / "here.toml", tmp_path / "absent.toml"
    here.touch()
    sides = [_side("cluster", here, ok("a", "well")), _side("site", absent, error("b", "unwell"))]
    assert look(sides, None) == [ok("a", "well")]
    assert look(sides, "site") == [error("b", "unwell")]


def test_a_host_without_any_configuration_is_an_error_that_names_both_files(tmp_path: Path) -> None:
    (finding,) = look([_side("cluster", tmp_path / "c.toml"), _side("site", tmp_path / "s.toml")], None)
    assert "c.toml and" in finding.says
    assert "s.toml are not there" in finding.says


def test_every_command_has_a_help_text_with_an_example() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        for each in commands:
            assert "Example" in (each.help or ""), f"{name} {each.name}: its help text has no example"


def test_the_list_of_commands_cuts_no_sentence() -> None:
    for group in ([], ["pki"]):
        assert "..." not in CliRunner().invoke(main, [*group, "--help"]).stdout.partition("\nCommands:")[2]


def test_every_command_but_completion_speaks_json() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        mute = [each.name for each in commands if "as_json" not in {parameter.name for parameter in each.params}]
        assert mute in ([], ["completion"]), name


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_is_no_defect(redirection: str) -> None:
    shell = ["bash", "-c", f'"$0" -m overspill.cli completion bash {redirection}', sys.executable]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        ("overspill: cannot write to standard output: No space", "overspill: standard output is")
    )
    assert len(done.stderr.splitlines()) == 1


def test_durations_are_read_in_their_two_largest_units() -> None:
    shown = [duration(seconds) for seconds in (0.0031, 1.25, 59, 61, 3600, 90_061)]
    assert shown == ["3 ms", "1.2 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b]0;b\x07") == "a\N{REPLACEMENT CHARACTER}]0;b\N{REPLACEMENT CHARACTER}"
    assert "\x1b" not in styled("\x1b[31m", "bold").plain


def test_the_summary_counts_and_the_exit_code_follows_errors_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [ok("a", "well"), warning("b", "odd", "look"), error("c", "broken", "mend it")]
    configuration = tmp_path / "x.toml"
    configuration.touch()
    monkeypatch.setattr("overspill.cli.check._sides", lambda: [_side("cluster", configuration, *found)])
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "ERROR   c: broken",
        "        -> mend it",
        "WARNING b: odd",
        "        -> look",
        "OK      a: well",
        "1 error, 1 warning, 1 ok",
    ]
    as_json = json.loads(CliRunner().invoke(main, ["check", "--json"]).stdout)
    assert as_json["summary"] == {"errors": 1, "warnings": 1, "ok": 1}
    assert as_json["findings"][0] == {"level": "error", "subject": "c", "says": "broken", "remedy": "mend it"}
    found.pop()
    assert CliRunner().invoke(main, ["check", "--quiet"]).exit_code == 0
