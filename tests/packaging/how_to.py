"""Executes a page of docs/ as a reader would: its blocks are typed and written, and what they promise is checked.

A block of `console` holds prompts (`root@site# apt-get ...`, `alice@cluster$ sbatch ...`) and under each what it
prints; `…` stands for anything. A block whose first line is ```` ```toml site:/etc/overspill/agent.toml ```` is a file
that the reader writes; with the word `append` its lines are added to the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.rig.host import Host

_PROMPT = re.compile(r"^(?P<user>\w+)@(?P<host>\w+)[#$] (?P<command>.+)$")
_FENCE = re.compile(r"^```(?P<language>\w+)(?: (?P<host>\w+):(?P<path>/\S+)(?P<append> append)?)?$")
#: What the reader replaces by what the other side has printed.
_CODE = "CODE"
_INVITATION = re.compile(r"^ +overspill enroll \S+ (\S+)$", re.MULTILINE)
_TIMEOUT_S = 180.0


@dataclass(slots=True)
class Command:
    user: str
    host: str
    text: str
    #: What it prints, line by line.
    prints: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    host: str
    path: str
    text: str
    is_appended: bool


def read(page: Path) -> list[Command | WrittenFile]:
    """Return all that a reader of the page does, in order."""
    return list(_steps(iter(page.read_text(encoding="utf-8").splitlines())))


def follow(steps: list[Command | WrittenFile], hosts: dict[str, Host]) -> None:
    """Do everything on the machines of these names.

    Raises:
        AssertionError: a command fails or prints something else.
    """
    code = ""
    for step in steps:
        host = hosts[step.host]
        if isinstance(step, WrittenFile):
            before = host.path(step.path).read_text() if step.is_appended else ""
            host.write(step.path, before + step.text)
        else:
            printed = _execute(replace(step, text=step.text.replace(_CODE, code)), host)
            code = "".join(_INVITATION.findall(printed)) or code


def _execute(command: Command, host: Host) -> str:
    """Execute the command and return what it prints."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    done = host.run(["bash", "-c", command.text], user=command.user, env=environment, timeout=_TIMEOUT_S)
    told = f"{command.user}@{host.name}: {command.text}\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, told
    if command.prints:
        expected = r"\n".join(".*".join(map(re.escape, line.split("…"))) for line in command.prints)
        assert re.search(expected, done.stdout + done.stderr, re.DOTALL), f"{told}\nthe page says:\n{command.prints}"
    return done.stdout


def _steps(lines: Iterator[str]) -> Iterator[Command | WrittenFile]:
    for line in lines:
        fence = _FENCE.match(line)
        if fence is None:
            continue
        body = list(iter(lambda: next(lines), "```"))
        if fence["path"]:
            yield WrittenFile(fence["host"], fence["path"], "".join(f"{row}\n" for row in body), bool(fence["append"]))
        elif fence["language"] == "console":
            yield from _commands(body)


def _commands(body: list[str]) -> Iterator[Command]:
    command: Command | None = None
    for line in body:
        prompt = _PROMPT.match(line)
        if prompt:
            if command:
                yield command
            command = Command(prompt["user"], prompt["host"], prompt["command"])
        elif command and command.text.endswith("\\"):
            command.text = f"{command.text[:-1]}{line.strip()}"
        elif command:
            command.prints.append(line)
    if command:
        yield command
