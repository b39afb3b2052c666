"""What a fake runner does in a script's place: the lines of it that begin with `#fake `, one act after the other.

* `say TEXT`: a line of standard output; `complain TEXT`: one of standard error.
* `repeat TEXT N`: standard output, so often, without a newline.
* `exit N`: the script's end; without it the exit code is 0. `die SIGNAL`: its end by a signal, "KILL" for example.
* `wait`: for a signal that ends it.
* `catch SIGNAL TEXT`: from here on the script makes a line of output of it; an empty TEXT ignores it.
* `fork N [SIGNAL TEXT]`: so many children until the end, which write TEXT when that signal goes to the tree.
* `allocate MIB`: in the script itself; `allocate-in-child MIB`: in a process of its own.
* `burn SECONDS CPUS`: compute, on as many CPUs as it gets of those; writes the milliseconds that it took.
* `devices`: write CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from signal import Signals

from overspill_agent.runs import Resources

_MARK = "#fake "


class ScriptEndedError(Exception):
    """The script is over; `signal` is 0 if it ended by itself."""

    def __init__(self, exit_code: int = 0, signal: int = 0) -> None:
        super().__init__(f"exit code {exit_code}, signal {signal}")
        self.exit_code = exit_code
        self.signal = signal


class Stage:
    """One script's acts and what they use up."""

    def __init__(self, resources: Resources, devices: tuple[str, ...], write: Callable[[str, bytes], None]) -> None:
        """Prepare; `write(act, line)` takes output, `act` being "say" or "complain"."""
        self._resources = resources
        self._devices = devices
        self._write = write
        self._caught: dict[int, str] = {}
        self._childrens: dict[int, list[str]] = {}
        self._killed_by: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.processes = 1
        self.oom_kills = 0
        self.cpu_ms = 0

    async def play(self, script: str) -> None:
        """Act to the end.

        Raises:
            ScriptEndedError: always.
        """
        acting = asyncio.create_task(self._act_all(script), name="fake acts")
        await asyncio.wait((acting, self._killed_by), return_when=asyncio.FIRST_COMPLETED)
        if self._killed_by.done():
            acting.cancel()
            raise ScriptEndedError(signal=self._killed_by.result())
        acting.result()
        raise ScriptEndedError

    def signal(self, number: int, scope: str = "tree") -> None:
        """Take a signal as processes do that catch what `catch` and `fork` say."""
        caught = [self._caught.get(number), *(self._childrens.get(number, ()) if scope == "tree" else ())]
        for text in filter(None, caught):
            self._write("say", text.encode() + b"\n")
        if caught[0] is not None and number != Signals.SIGKILL:
            return
        if number not in (Signals.SIGCONT, Signals.SIGSTOP) and not self._killed_by.done():
            self._killed_by.set_result(number)

    async def _act_all(self, script: str) -> None:
        for line in script.splitlines():
            if line.startswith(_MARK):
                act, *words = shlex.split(line.removeprefix(_MARK))
                await self._act(act, words)

    async def _act(self, act: str, words: list[str]) -> None:
        match act, words:
            case "wait", []:
                await asyncio.Event().wait()
            case "burn", [seconds, cpus]:
                await self._burn(float(seconds), int(cpus))
            case "exit", [code]:
                raise ScriptEndedError(exit_code=int(code))
            case "die", [name]:
                raise ScriptEndedError(signal=Signals[f"SIG{name}"])
            case "allocate" | "allocate-in-child", [mib]:
                self._allocate(int(mib), is_own=act == "allocate")
            case "catch", [name, text]:
                self._caught[Signals[f"SIG{name}"]] = text
            case "fork", [count, *caught]:
                self._fork(int(count), caught)
            case _:
                self._write(act if act == "complain" else "say", self._text(act, words))

    def _text(self, act: str, words: list[str]) -> bytes:
        if act == "devices":
            return ",".join(self._devices).encode() + b"\n"
        return words[0].encode() * int(words[1]) if act == "repeat" else words[0].encode() + b"\n"

    def _fork(self, count: int, caught: list[str]) -> None:
        self.processes += count
        if caught:
            self._childrens[Signals[f"SIG{caught[0]}"]] = [caught[1]] * count

    def _allocate(self, mib: int, *, is_own: bool) -> None:
        if mib > self._resources.memory_mib:
            self.oom_kills += 1
            if is_own:
                raise ScriptEndedError(signal=Signals.SIGKILL)

    async def _burn(self, seconds: float, cpus: int) -> None:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        wall_ms = (time.monotonic() - began) * 1000
        self.cpu_ms += round(wall_ms * min(cpus, self._resources.cpus))
        self._write("say", str(round(wall_ms)).encode() + b"\n")
