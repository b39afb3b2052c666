"""The order of the whole suite, and the signals that it begins with."""

from __future__ import annotations

import signal
from collections import defaultdict
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

#: Those with the longest waits first.
_TIERS = ("packaging", "e2e", "integration", "conformance", "unit")
_HERE = Path(__file__).parent
#: Files that play hundreds of sessions side by side: each alone keeps this machine busy.
_CROWDED = "test_comparison"


def pytest_configure() -> None:
    """Undo what a shell does to what it starts in the background: jobs would inherit that INT and QUIT are ignored."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put files first that hold a test with much patience: what is begun last must not be what takes longest.

    Each of xdist's workers takes the next file when it is nearly done with its own (`--no-loadscope-reorder`).
    """
    default = float(config.getini("timeout"))
    patience: defaultdict[Path, float] = defaultdict(lambda: default)
    for item in items:
        if marker := item.get_closest_marker("timeout"):
            patience[item.path] = max(patience[item.path], float(marker.args[0]))
    items.sort(key=lambda item: (-patience[item.path], _tier(item.path)))


def _tier(path: Path) -> int:
    name = path.relative_to(_HERE).parts[0]
    return _TIERS.index(name) if name in _TIERS else len(_TIERS)


class OneCrowdAtATime(LoadFileScheduling):
    """xdist's `--dist loadfile`, but that one worker has all crowded files, one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _CROWDED if Path(file).name.startswith(_CROWDED) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return OneCrowdAtATime(config, log)
