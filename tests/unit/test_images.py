"""What the images' directories say, and what the builder makes of it; no engine is needed."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from overspill_images import context, packages, recipe
from overspill_images.__main__ import main
from overspill_images.recipe import IMAGES, RecipeError

NAMES = recipe.names()


@pytest.fixture(params=NAMES)
def dockerfile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return (IMAGES / name / "Dockerfile").read_text()


def test_an_image_is_built_upon_what_the_admin_names(dockerfile: str) -> None:
    assert re.search(r"^ARG BASE=overspill/[a-z-]+(:[a-z]+)?\nFROM \$\{BASE\}$", dockerfile, re.MULTILINE)


def test_an_image_names_no_host_and_no_certificates_of_this_machine(dockerfile: str) -> None:
    assert "://" not in dockerfile
    assert "ca-certificates.crt" not in dockerfile


def test_an_image_installs_by_the_script_that_lists_its_packages(dockerfile: str) -> None:
    assert "RUN overspill-install " in dockerfile
    assert "apt-get" not in dockerfile


def test_an_image_says_what_it_is(dockerfile: str) -> None:
    for label in ("title", "description"):
        assert f'org.opencontainers.image.{label}="' in dockerfile


@pytest.mark.parametrize("name", NAMES)
def test_the_packages_of_an_image_are_written_down(name: str) -> None:
    lock = packages.lock_file(name)
    assert packages.drift(name, lock) == []
    assert re.search(r"^python3\t3\.1\d\.", lock.read_text(), re.MULTILINE)


def test_packages_that_are_not_as_written_down_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "IMAGES", tmp_path)
    (tmp_path / "small").mkdir()
    then, now = tmp_path / "then.tsv", tmp_path / "now.tsv"
    then.write_text("bash\t5.2\tamd64\nsed\t4.9\tamd64\n")
    now.write_text("bash\t5.3\tamd64\nzstd\t1.5\tamd64\n")
    packages.record("small", then)
    assert packages.drift("small", then) == []
    assert packages.drift("small", now) == [
        "bash:amd64: 5.2 -> 5.3",
        "sed:amd64: 4.9 -> absent",
        "zstd:amd64: absent -> 1.5",
    ]


def test_what_an_image_is_made_from_is_built_before_it() -> None:
    assert [made.name for made in recipe.with_parents("runtime-bench")] == ["runtime-base", "runtime-bench"]
    assert recipe.read("runtime-bench").suite == "trixie"


def test_an_unknown_image_is_refused_with_those_that_exist() -> None:
    with pytest.raises(RecipeError, match=r"no image 'runtime-max'; there are htcondor, .*runtime-mini"):
        recipe.read("runtime-max")


@pytest.mark.parametrize("line", ["FROM debian:trixie", "ARG BASE=overspill/debian", "ARG BASE=overspill/nothing"])
def test_a_dockerfile_that_does_not_say_its_base_is_refused(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "IMAGES", tmp_path)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/Dockerfile").write_text(f"{line}\n")
    with pytest.raises(RecipeError, match="odd/Dockerfile"):
        recipe.read("odd")


def test_an_image_is_another_one_as_soon_as_one_of_its_files_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "IMAGES", tmp_path)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/Dockerfile").write_text("ARG BASE=overspill/debian:trixie\n")
    script = tmp_path / "small/start"
    script.write_text("#!/bin/sh\n")
    digests = {recipe.read("small").digest}
    script.chmod(0o755)
    digests.add(recipe.read("small").digest)
    script.write_text("#!/bin/sh\nexit 1\n")
    digests.add(recipe.read("small").digest)
    (tmp_path / "small/packages.lock").write_text("bash\t5.2\tamd64\n")
    digests.add(recipe.read("small").digest)
    assert len(digests) == 3


def test_each_certificate_of_a_bundle_becomes_a_file_of_the_build(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(trustme.CA().cert_pem.bytes() + trustme.CA().cert_pem.bytes())
    context.write(recipe.read("runtime-mini"), tmp_path / "context", bundle)
    written = [path.read_bytes() for path in sorted((tmp_path / "context/ca").iterdir())]
    assert written == context.split_certificates(bundle)
    assert len(written) == 2


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_refused(content: bytes | None, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(ValueError, match=f"CA={bundle}"):
        context.split_certificates(bundle)


def test_the_labels_are_those_of_the_open_container_initiative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    labels = context.labels(recipe.read("runtime-mini"), "debian:trixie", context.build_time())
    assert {name.removeprefix("org.opencontainers.image.") for name in labels} == {
        *("version", "created", "revision", "source", "base.name"),
    }
    assert labels["org.opencontainers.image.created"] == "2023-11-14T22:13:20Z"
    assert labels["org.opencontainers.image.base.name"] == "debian:trixie"


def test_the_time_of_a_build_is_now() -> None:
    assert abs((datetime.now(UTC) - context.build_time()).total_seconds()) < 60


def test_a_proxys_address_reaches_the_build_without_becoming_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:word@proxy.invalid:3128")
    assert context.arguments("overspill/debian")["http_proxy"] == "http://user:word@proxy.invalid:3128"
    assert "word" not in str(context.labels(recipe.read("runtime-mini"), "debian", datetime.now(UTC)))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["runtime-max"], "Error: no image 'runtime-max'; there are "),
        (["runtime-mini", "--ca", "/nowhere"], "CA=/nowhere"),
    ],
)
def test_make_images_says_what_is_wrong_in_one_line(argv: list[str], said: str) -> None:
    result = CliRunner().invoke(main, argv)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output
