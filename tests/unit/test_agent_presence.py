"""Which images of the catalogue can run jobs, as `overspill-agent images` and `overspill check` tell."""

from __future__ import annotations

from overspill.errors import UnavailableError
from overspill_agent.backends.base import Demand
from overspill_agent.backends.fake import FakeBackend, World
from overspill_agent.config import AgentConfig, ImageSection, parse
from overspill_agent.presence import Presence, presences
from tests.unit.test_agent_config import GOOD


def _config(*names: str) -> AgentConfig:
    images = {name: ImageSection(reference=f"{name}:13") for name in names}
    return parse(GOOD, "agent.toml").model_copy(update={"local": None, "images": images})


async def test_each_image_is_told_as_the_back_end_would_before_a_run() -> None:
    found = await presences(_config("base", "bench"), FakeBackend(World(missing_images={"bench"})))
    assert found["base"] == Presence(is_present=True)
    assert found["base"].in_words == "present"
    assert found["bench"].is_present is False
    assert found["bench"].in_words.startswith("missing: the image bench is missing")


async def test_an_image_that_nobody_can_tell_of_now_is_unknown() -> None:
    class Silent(FakeBackend):
        async def check(self, demand: Demand) -> None:
            assert demand.image is not None
            raise UnavailableError("the engine does not answer")

    found = await presences(_config("base"), Silent(World()))
    assert found["base"] == Presence(is_present=None, reason="the engine does not answer")
    assert found["base"].in_words == "unknown: the engine does not answer"


async def test_a_site_without_images_has_none_to_tell_of() -> None:
    assert await presences(_config(), FakeBackend(World())) == {}
