"""The order of the whole suite."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

#: Those with the longest waits first.
_TIERS = ("packaging", "e2e", "integration", "conformance", "unit")
_HERE = Path(__file__).parent


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
