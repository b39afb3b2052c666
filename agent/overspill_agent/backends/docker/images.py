"""Whether an image is there and can run the runner: tried once for each image, in a container that is thrown away.

What was found out is kept in a file for each image, by what it depends on: the image's id, its Python's path,
the runner.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from overspill.errors import OverspillError, UnavailableError, UnrunnableError
from overspill_agent.backends.base import Image
from overspill_agent.backends.docker.container import Rules, trial_body
from overspill_agent.backends.docker.engine import Engine
from overspill_agent.backends.docker.reading import RefusedError
from overspill_agent.backends.run_files import CONTROL, start_error

log = structlog.get_logger(__name__)

_TRIAL_TIMEOUT_S = 60.0
#: A pull that has failed is not tried again for so long.
_PULL_PAUSE_S = 60.0
_PROGRESS_INTERVAL_S = 10.0
_COMPLAINT_BYTES = 300
#: Where findings are kept, in the back end's directory.
KEPT = ".images"
_TRIAL_PREFIX = "trial-"
_NEW = ".new"
#: How Python names what it has compiled. The image says the name, and root makes a file of it: no other one will do.
_COMPILED = re.compile(r"__pycache__/runner\.[A-Za-z0-9_-]+(\.opt-[12])?\.pyc")
#: What the engine says where the image does not have what it is to execute, or cannot execute it.
_NOT_EXECUTABLE = ("no such file or directory", "executable file not found", "exec format error", "permission denied")
#: For any Python, from 2 on. Says its version, and if that will do imports the runner and compiles it.
_TRIAL = f"""
import sys
if sys.version_info < (3, 8):
    sys.stdout.write('{{"version": [%d, %d]}}' % sys.version_info[:2])
    sys.exit(0)
import base64, importlib.util, json, py_compile
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
source = "{CONTROL}/runner.py"
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
py_compile.compile(source, "/tmp/runner.pyc", doraise=True, invalidation_mode=mode)
sys.dont_write_bytecode = True
sys.path.append("{CONTROL}")
import runner
with open("/tmp/runner.pyc", "rb") as file:
    compiled = base64.b64encode(file.read()).decode()
cache = importlib.util.cache_from_source("runner.py")
found = dict(version=sys.version_info[:2], cache=cache, compiled=compiled)
print(json.dumps(dict(found, passwd=read("/etc/passwd"), group=read("/etc/group"))))
"""


@dataclass(frozen=True, slots=True)
class TriedImage:
    """An image that can run the runner.

    Attributes:
        image_id: the engine's.
        compiled: the compiled runner, by its name beside the source.
        passwd, group: the image's own files.
    """

    image_id: str
    compiled: Mapping[str, bytes]
    passwd: str
    group: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What a trial has shown.

    Attributes:
        output: its standard output: JSON, if the image's Python has come that far.
        complaint: the end of its standard error, or what the engine said.
        is_executable: the image has the Python, and it can be executed.
    """

    output: str
    complaint: str
    is_executable: bool = True

    def judge(self, image: Image, image_id: str) -> TriedImage:
        """Return the image as one that can run the runner.

        Raises:
            UnrunnableError: it cannot; says why.
        """
        cannot = f"the image {image.name} of this site cannot run jobs"
        if not self.is_executable:
            raise UnrunnableError(
                f"{cannot}: it has no {image.python} that it can execute; a Python of at least 3.8 is needed"
            )
        try:
            found = json.loads(self.output)
            version = ".".join(map(str, found["version"]))
            tried = _tried(image_id, found) if "compiled" in found else None
        except (ValueError, LookupError, TypeError, AttributeError):
            why = next(reversed(self.complaint.splitlines()), "it says nothing that the runner's trial would")
            raise UnrunnableError(f"{cannot}: its {image.python} does not run the runner: {why}") from None
        if tried is None:
            raise UnrunnableError(f"{cannot}: its {image.python} is Python {version}, and at least 3.8 is needed")
        return tried


def _tried(image_id: str, found: dict[str, Any]) -> TriedImage:
    """Return what an image that is fit has said; it may say anything.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is not what the trial says.
    """
    cache = found["cache"]
    if not _COMPILED.fullmatch(cache):
        raise ValueError(f"{cache!r} is no name for a compiled runner")
    compiled = {cache: base64.b64decode(found["compiled"])}
    return TriedImage(image_id, compiled, passwd=_text(found["passwd"]), group=_text(found["group"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value.encode("utf-8", "replace").decode()


class Images:
    """The images of one engine, and what has been found out about them."""

    def __init__(self, engine: Engine, rules: Rules, directory: Path, runner: bytes) -> None:
        """Try nothing yet; `directory` is the back end's own, `runner` the runner's source."""
        self._engine = engine
        self._rules = rules
        self._directory = directory / KEPT
        self._runner = runner
        self._tried: dict[tuple[str, str], Findings] = {}
        self._trying = asyncio.Lock()
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._failed_pulls: dict[str, tuple[float, str]] = {}

    async def ready(self, image: Image) -> TriedImage:
        """Return the image as one in which runs can start.

        Raises:
            UnrunnableError: it is not there, or cannot run the runner; a sentence for the user.
            UnavailableError: it is being fetched, or the engine does not answer.
            ExhaustedError, AdminError: it cannot be tried on this host.
        """
        image_id = await self._engine.image_id(image.reference)
        if image_id is None:
            self._fetch(image)
            raise UnavailableError(f"the image {image.name} is being fetched to this site; try again in a while")
        key = (image_id, image.python)
        if key not in self._tried:  # an image that takes its time to be tried holds up no run of another
            async with self._trying:
                await self._find_out(image, image_id)
        return self._tried[key].judge(image, image_id)

    async def _find_out(self, image: Image, image_id: str) -> None:
        key = (image_id, image.python)
        if key in self._tried:
            return
        try:
            self._tried[key] = await self._findings(image, image_id)
        except OSError as error:
            raise start_error(error) from error

    async def open(self) -> None:
        """Remove what trials have left behind that were cut short, but none that another program is making."""
        for container in await self._engine.containers(self._rules.agent):
            if not container.run_id and not container.is_alive:
                try:
                    await self._engine.remove(container.container_id)
                except RefusedError as refused:
                    if not refused.is_conflict:  # the program that has made it is removing it
                        raise
        await asyncio.to_thread(_clean, self._directory)

    async def close(self) -> None:
        """Give up pulls; the engine goes on with what it has begun."""
        for pull in self._pulls.values():
            pull.cancel()
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)

    def _fetch(self, image: Image) -> None:
        """Have a missing image fetched, if it may be; nothing happens where that is under way.

        Raises:
            UnrunnableError: it may not be, or that has just failed.
        """
        if not image.may_be_pulled:
            raise UnrunnableError(
                f"the image {image.name} is missing at this site; its operator can add it:"
                f" docker pull {image.reference}"
            )
        failed_at, reason = self._failed_pulls.get(image.reference, (float("-inf"), ""))
        if time.monotonic() - failed_at < _PULL_PAUSE_S:
            raise UnrunnableError(f"the image {image.name} is missing at this site and cannot be fetched: {reason}")
        if image.reference not in self._pulls:
            name = f"pull {image.reference}"
            self._pulls[image.reference] = asyncio.create_task(self._pull(image.reference), name=name)

    async def _pull(self, reference: str) -> None:
        said_at = time.monotonic()

        def progress(line: str) -> None:
            nonlocal said_at
            if time.monotonic() - said_at > _PROGRESS_INTERVAL_S:
                said_at = time.monotonic()
                log.info("image is being pulled", action="image_pull", image=reference, progress=line)

        log.info("image is being pulled", action="image_pull", image=reference, progress="")
        try:
            await self._engine.pull(reference, progress)
        except OverspillError as error:
            self._failed_pulls[reference] = time.monotonic(), error.reason
            log.warning("image cannot be pulled", action="image_not_pulled", image=reference, reason=error.reason)
        else:
            log.info("image is pulled", action="image_pulled", image=reference)
        finally:
            del self._pulls[reference]

    async def _findings(self, image: Image, image_id: str) -> Findings:
        """Return what was found out about the image before, else try it."""
        what = "\0".join((image_id, image.python, hashlib.sha256(self._runner).hexdigest()))
        path = self._directory / f"{hashlib.sha256(what.encode()).hexdigest()}.json"
        kept = await asyncio.to_thread(_read, path)
        if kept is None:
            kept = await self._try(image, image_id)
            await asyncio.to_thread(_write, path, kept)
        return kept

    async def _try(self, image: Image, image_id: str) -> Findings:
        """Find out whether the image can run the runner.

        Raises:
            UnavailableError: that cannot be told now.
            AdminError: no container can be started here.
        """
        name = f"overspill-trial-{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory(dir=self._directory, prefix=_TRIAL_PREFIX) as directory:
            control = Path(directory)
            await asyncio.to_thread(_make_readable, control, self._runner)
            body = trial_body(image_id, [image.python, "-I", "-S", "-c", _TRIAL], self._rules, control)
            try:
                await self._engine.create(name, body)
                await self._engine.start(name)
                await self._engine.wait(name, _TRIAL_TIMEOUT_S)
                output = await self._engine.output(name)
                complaint = (await self._engine.output(name, is_error=True))[-_COMPLAINT_BYTES:]
            except RefusedError as refused:
                if (
                    any(words in refused.explanation for words in _NOT_EXECUTABLE)
                    and image.python in refused.explanation
                ):
                    return Findings("", refused.explanation, is_executable=False)
                raise
            finally:
                await self._engine.remove(name)
        return Findings(output.decode("utf-8", "replace"), complaint.decode("utf-8", "replace").strip())


def _make_readable(control: Path, runner: bytes) -> None:
    """Put the runner where everybody can read it."""
    control.chmod(0o755)
    (control / "runner.py").write_bytes(runner)
    (control / "runner.py").chmod(0o644)


def _clean(directory: Path) -> None:
    """Remove directories of trials that nobody can be making any more."""
    for unfinished in directory.glob(f"{_TRIAL_PREFIX}*"):
        if time.time() - unfinished.stat().st_mtime > 2 * _TRIAL_TIMEOUT_S:
            shutil.rmtree(unfinished)


def _read(path: Path) -> Findings | None:
    """Return what was kept; None where nothing was, or nothing that can be read: a loss of power can cut it short."""
    try:
        return Findings(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        log.warning("an image is tried again", action="findings_not_read", path=str(path), reason=str(error))
        return None


def _write(path: Path, findings: Findings) -> None:
    new = path.with_suffix(_NEW)
    new.write_text(json.dumps(asdict(findings)), "utf-8")
    new.rename(path)
