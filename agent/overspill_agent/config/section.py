"""What every section of agent.toml is made of."""

from __future__ import annotations

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
