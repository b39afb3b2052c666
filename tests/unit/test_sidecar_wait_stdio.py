"""The wait model behind lines of JSON, as `overspill-sidecar wait-model --stdio` speaks them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from overspill_sidecar import cli

_SITE = '{"op":"site","procs":64}'


def _run(*lines: str, options: tuple[str, ...] = ("--no-trees",)) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("overspill-sidecar")
    text = "".join(f"{line}\n" for line in lines)
    return subprocess.run(
        [program, "wait-model", "--stdio", *options],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _job(key: int, at_s: int) -> dict[str, object]:
    return {"id": key, "submit": at_s, "procs": 4, "req_time": 600, "user": 4, "queue": "batch"}


def _submit(key: int, at_s: int) -> str:
    return json.dumps({"op": "submit", "job": _job(key, at_s)})


def _predict(key: int, at_s: int) -> str:
    return json.dumps({"op": "predict", "job": _job(key, at_s), "now": at_s})


def test_only_questions_are_answered_each_with_a_line() -> None:
    done = _run(_SITE, _submit(1, 0), '{"op":"start","id":1,"t":10}', _predict(2, 99), '{"op":"end","id":1,"t":100}')
    assert (done.returncode, done.stderr) == (0, "")
    (answer,) = (json.loads(line) for line in done.stdout.splitlines())
    assert set(answer) == {"wait", "probs", "upper95"}
    assert 1 >= answer["probs"]["300"] >= answer["probs"]["1800"] >= answer["probs"]["7200"] >= 0
    assert answer["upper95"] >= answer["wait"] >= 0


def test_the_same_lines_get_the_same_answers() -> None:
    lines = [_SITE, *(line for n in range(40) for line in (_predict(n, 100 * n), _submit(n, 100 * n)))]
    assert _run(*lines).stdout == _run(*lines).stdout != ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "line 3: Expecting value"),
        ("[]", "line 3: [] is no JSON object"),
        ('{"id":1}', "line 3: 'op' is missing"),
        ('{"op":"sing"}', "line 3: op is 'sing', not site, submit, start, end or predict"),
        ('{"op":"start","id":1,"t":"noon"}', "line 3: 'noon' is no number"),
        ('{"op":"start","id":[1],"t":1}', "line 3: [1] is no job id"),
        ('{"op":"submit","job":{"id":1}}', "line 3: 'req_time' is missing"),
        ('{"op":"predict","job":7,"now":1}', "line 3: 7 is no JSON object"),
    ],
)
def test_a_bad_line_ends_it_with_the_line_and_the_reason(line: str, says: str) -> None:
    done = _run(_SITE, _predict(1, 0), line, _predict(2, 0))
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_an_event_before_the_site_is_told_is_refused_with_an_example() -> None:
    done = _run(_submit(1, 0))
    assert (done.returncode, done.stdout) == (1, "")
    assert '{"op": "site", "procs": 1024}' in done.stderr


def test_without_stdio_it_says_what_is_missing() -> None:
    program = Path(sys.executable).with_name("overspill-sidecar")
    done = subprocess.run([program, "wait-model"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--stdio" in done.stderr


def test_without_the_extra_it_says_so_once_and_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "are_available", lambda: False)
    lines = "".join(f"{line}\n" for line in (_SITE, _submit(1, 0), _predict(2, 99)))
    done = CliRunner().invoke(cli.main, ["wait-model", "--stdio"], input=lines)
    assert done.exit_code == 0
    assert done.stderr.count("\n") == 1
    assert "overspill[trees]" in done.stderr
    assert len(done.stdout.splitlines()) == 1
