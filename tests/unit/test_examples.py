"""The example configurations say only what the programs understand."""

from pathlib import Path

from overspill_agent import config as agent_config
from overspill_sidecar import config as sidecar_config

EXAMPLES = Path(__file__).parents[2] / "packaging/examples"


def test_the_example_of_the_sidecars_configuration_is_one() -> None:
    (site,) = sidecar_config.load(EXAMPLES / "sidecar.toml").sites
    assert (site.name, site.partition) == ("site-a", "overspill")


def test_the_example_of_the_agents_configuration_is_one() -> None:
    loaded = agent_config.load(EXAMPLES / "agent.toml")
    assert loaded.accounts["mycluster"]["alice"] == "alice"
