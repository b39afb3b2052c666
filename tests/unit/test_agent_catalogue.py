"""Which image a run gets, and what is said where there is none for it."""

from pathlib import Path

import pytest

from overspill.errors import ConfigError, UnrunnableError
from overspill_agent.backends.base import Image
from overspill_agent.catalogue import Catalogue
from overspill_agent.config import ImageSection, parse
from overspill_agent.runs import Resources
from tests.unit.test_agent_config import GOOD

ONE = Resources(cpus=1, memory_mib=100)
BASE = ImageSection.model_validate({"reference": "base:13", "default": True})
BENCH = ImageSection(reference="bench:13", features=("bench", "hpl"), max_cpus=8, max_memory_mib=4096, max_gpus=0)
DEBUG = ImageSection(reference="debug:13", partitions=("debug",), python=Path("/opt/python"), pull="missing")
SITE = Catalogue({"base": BASE, "bench": BENCH, "debug": DEBUG})
NONE = Catalogue({})


@pytest.mark.parametrize(
    ("named", "constraint", "partition", "chosen"),
    [
        ("", "", "batch", "base"),
        ("", "", "debug", "debug"),
        ("", "bench", "debug", "bench"),
        ("", "intel&hpl", "debug", "bench"),
        ("", "overspill,bench", "", "bench"),
        ("", "intel", "debug", "debug"),
        ("base", "bench", "debug", "base"),
    ],
)
def test_the_users_word_comes_before_features_partition_and_default(
    named: str, constraint: str, partition: str, chosen: str
) -> None:
    assert SITE.choose(named=named, constraint=constraint, partition=partition, resources=ONE) == chosen


def test_an_image_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnrunnableError, match=r"no image 'nothing'; it offers base, bench, debug"):
        SITE.choose(named="nothing", constraint="", partition="", resources=ONE)


def test_a_site_without_images_chooses_none_and_refuses_every_name() -> None:
    assert NONE.choose(named="", constraint="intel", partition="debug", resources=ONE) == ""
    with pytest.raises(UnrunnableError, match="no image 'base'; its jobs run in no image"):
        NONE.choose(named="base", constraint="", partition="", resources=ONE)


def test_a_job_for_which_a_catalogue_without_default_has_nothing_gets_none() -> None:
    assert Catalogue({"bench": BENCH}).choose(named="", constraint="", partition="batch", resources=ONE) == ""


@pytest.mark.parametrize(
    ("resources", "limit"),
    [(Resources(cpus=9), "8 CPUs"), (Resources(1, 4097), "4096 MiB"), (Resources(1, 1, 1), "0 GPUs")],
)
def test_a_run_that_is_too_large_for_its_image_is_refused(resources: Resources, limit: str) -> None:
    with pytest.raises(UnrunnableError, match=f"the image bench is for runs of at most {limit}"):
        SITE.choose(named="", constraint="bench", partition="", resources=resources)
    assert SITE.choose(named="", constraint="bench", partition="", resources=Resources(8, 4096)) == "bench"


@pytest.mark.parametrize("constraint", ["a|bench", "[a|b]", "(a&b)|c", "bench*2", "a&", "a b"])
def test_a_constraint_that_is_no_list_of_features_is_refused(constraint: str) -> None:
    with pytest.raises(UnrunnableError, match="only features joined by & are"):
        SITE.choose(named="", constraint=constraint, partition="", resources=ONE)


def test_the_back_end_is_asked_for_the_image_and_the_features_that_no_image_stands_for() -> None:
    demand = SITE.demand(ONE, "a100", image="debug", constraint="overspill&bench,avx2&intel")
    assert demand.image == Image(name="debug", reference="debug:13", python="/opt/python", may_be_pulled=True)
    assert (demand.resources, demand.gpu_type, demand.constraint) == (ONE, "a100", "avx2&intel")
    assert NONE.demand(ONE, "", image="", constraint="bench").constraint == "bench"
    assert NONE.demand(ONE, "", image="", constraint="overspill").constraint == ""


def test_a_run_whose_image_has_left_the_catalogue_is_refused() -> None:
    with pytest.raises(UnrunnableError, match="no image 'base'"):
        NONE.demand(ONE, "", image="base", constraint="")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ('[images.base]\nreference = "x"\n', "[images] are of no use to [local]"),
        ('[images."a b"]\nreference = "x"\n', "an image's name here is of letters, digits and . _ -"),
        ('[images.base]\nreference = ""\n', "[images.base] reference: String should have at least 1 character"),
    ],
)
def test_images_that_cannot_be_are_told(images: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(GOOD + images, "agent.toml")
    assert told in error.value.reason


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ('features = ["avx2"]', "several images list avx2 in their features; only one can"),
        ('partitions = ["debug"]', "several images list debug in their partitions"),
        ("default = true", "one, two are all the default image"),
    ],
)
def test_two_images_for_the_same_jobs_are_told(word: str, told: str) -> None:
    images = "".join(f'[images.{name}]\nreference = "x"\n{word}\n' for name in ("one", "two"))
    with pytest.raises(ConfigError) as error:
        parse(GOOD + images, "agent.toml")
    assert told in error.value.reason
