"""The docker back end passes the suite, with a real engine; needs root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from overspill_images.engine import Engine
from tests.conformance.backends.docker_place import DockerPlace
from tests.conformance.backends.suite import BackendSuite
from tests.container_engine import engine_with


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_with("runtime-mini") as engine:
        yield engine


@pytest.fixture(scope="module")
def found_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


class TestDocker(BackendSuite):
    """Every case, of the docker back end."""

    @pytest.fixture
    def place(self, engine: Engine, found_out: Path, tmp_path: Path) -> DockerPlace:
        return DockerPlace(engine, tmp_path / "host", found_out)
