"""What every section of agent.toml is made of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

#: Beside this package, wherever that is installed.
DEFAULT_RUNNER = Path(__file__).resolve().parents[2] / "overspill_runner" / "runner.py"


def _split_listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 2**16):
        raise ValueError('write "address:port", for example "0.0.0.0:7443"')
    return value


def _be_absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError("write an absolute path without `..`")
    return path


def _be_https(value: str) -> str:
    if not value.startswith("https://") or value.endswith("/"):
        raise ValueError('write "https://name:port", as runners reach this agent')
    return value


Listen = Annotated[str, AfterValidator(_split_listen)]
AbsolutePath = Annotated[Path, AfterValidator(_be_absolute)]
HttpsUrl = Annotated[str, AfterValidator(_be_https)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def check_roots(private: Iterable[Path], shared: Iterable[Path]) -> None:
    """Refuse directories of runs that are not apart from each other.

    Raises:
        ValueError: says which, and what to do.
    """
    private, shared = tuple(private), tuple(shared)
    for root in (*private, *shared):
        if root == Path("/"):
            raise ValueError("`/` can be neither private nor shared; name directories below it")
        for other in (*private, *shared):
            if other != root and other.is_relative_to(root):
                raise ValueError(f"{other} lies in {root}; name only one of them in `private` and `shared`")
    if set(private) & set(shared):
        raise ValueError("a directory is either in `private` or in `shared`")
