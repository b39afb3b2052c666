"""The agent with the shipped fake back end, for tests of what a real one is not needed for; no run of it ever ends.

`python -m tests.integration.fake_agent CONFIG SLOTS IMAGES`: SLOTS is "CPUS,CPUS,...", IMAGES a file with `[images]`.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from pydantic import TypeAdapter

from overspill.daemon import set_up_logs
from overspill_agent import app
from overspill_agent.backends.fake import FakeBackend, World
from overspill_agent.capacity import Slot
from overspill_agent.config import load
from overspill_agent.config.catalogue import Images
from overspill_agent.runs import Resources


def main(config_path: str, slots: str, images: str) -> None:
    """Run the agent until SIGTERM."""
    set_up_logs("debug")
    sizes = [Resources(int(cpus), int(cpus) * 1024) for cpus in slots.split(",")]
    world = World(slots=tuple(Slot(f"slot{number}", size, size) for number, size in enumerate(sizes)))
    catalogue = TypeAdapter(Images).validate_python(tomllib.loads(Path(images).read_text())["images"])
    config = load(Path(config_path)).model_copy(update={"images": catalogue})
    # The agent looks at its file system; the local back end, which would have made it, is not there.
    assert config.local is not None
    config.local.directory.mkdir(parents=True, exist_ok=True)
    app.run(config, lambda _config: FakeBackend(world))


if __name__ == "__main__":
    main(*sys.argv[1:])
