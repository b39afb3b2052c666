"""Images as an admin gets them from `make images`, looked at in an engine. runtime-mini stands for all.

What is only in the large ones is looked at by hand: `make images IMAGE=runtime-bench`, see docs/images.md.
"""

from __future__ import annotations

import re
import ssl
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from overspill_images.__main__ import main
from overspill_images.builder import PACKAGES, Builder, Image, Options
from overspill_images.engine import Engine, docker
from tests.container_engine import engine_with
from tests.rig.accounts import USERS

pytestmark = pytest.mark.timeout(900)  # On a fresh machine all of it is built, from debootstrap on.

MINI = "runtime-mini"
AS_ALICE = ("--user", f"{USERS[0].uid}:{USERS[0].uid}")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engine_with(MINI) as engine:
        yield engine


@pytest.fixture(scope="module")
def mini() -> Image:
    return Builder().build([MINI])[0]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def based(
    engine: Engine, mini: Image, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Image]]:
    """An image on a base of the admin's own, who also has a certificate authority of his own."""
    directory = tmp_path_factory.mktemp("based")
    docker(engine.socket, "run", "--name=marked", "--network=none", mini.reference, "touch", "/of-the-admin")
    docker(engine.socket, "commit", "marked", "admins/base:1")
    base, ca = directory / "base.tar", directory / "ca.pem"
    docker(engine.socket, "save", "--output", str(base), "admins/base:1")
    authority.cert_pem.write_to_path(str(ca))
    (image,) = Builder(Options(base=str(base), ca=ca), cache=directory).build([MINI])
    with Engine(directory / "e") as other:
        other.load(image.archive)
        yield other, image


def in_container(engine: Engine, image: Image, *argv: str, options: tuple[str, ...] = ("--network=none",)) -> str:
    return docker(engine.socket, "run", "--rm", *options, image.reference, *argv)


def test_an_image_that_was_built_is_not_built_again(mini: Image) -> None:
    steps: list[str] = []
    (again,) = Builder(progress=steps.append).build([MINI])
    assert again.is_cached
    assert again.archive == mini.archive
    assert steps == []


def test_make_images_shows_what_there_is_and_puts_it_where_docker_load_finds_it(mini: Image, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [MINI, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert re.search(rf"{mini.reference} +\d+ MB +\d+ s \(before\) +", result.output)
    assert f"docker load --input {tmp_path}/{MINI}.tar" in result.output
    assert (tmp_path / f"{MINI}.tar").resolve() == mini.archive
    assert (tmp_path / f"{MINI}.packages.tsv").read_text() == mini.packages.read_text()


def test_an_image_is_labelled(engine: Engine, mini: Image) -> None:
    form = "{{range $name, $value := .Config.Labels}}{{$name}}={{$value}}\n{{end}}"
    shown = docker(engine.socket, "image", "inspect", f"--format={form}", mini.reference)
    labels = dict(line.split("=", 1) for line in shown.splitlines() if line)
    for name in ("title", "description", "version", "source", "revision", "created", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"], name
    assert labels["org.opencontainers.image.base.name"] == "debian:trixie (debootstrap)"


def test_an_image_lists_its_packages_and_so_does_the_file_beside_it(engine: Engine, mini: Image) -> None:
    table = in_container(engine, mini, "cat", PACKAGES)
    assert table == mini.packages.read_text()
    fields = ("dpkg-query", "--show", r"--showformat=${Package}\t${Version}\t${Architecture}\n")
    assert table == in_container(engine, mini, *fields)


def test_a_job_finds_a_python_for_the_runner_and_the_locale_of_a_cluster(engine: Engine, mini: Image) -> None:
    said = in_container(engine, mini, "python3", "-c", "import sys, ssl, json; print(sys.version_info[:2], ascii('ü'))")
    assert said.strip() == r"(3, 13) '\xfc'"
    assert in_container(engine, mini, "locale", "charmap").strip() == "UTF-8"


@pytest.mark.parametrize("root", ["/home", "/work", "/scratch"])
def test_any_user_may_make_a_submit_directory(root: str, engine: Engine, mini: Image) -> None:
    argv = ("sh", "-c", f"mkdir -p {root}/alice/project && echo made")
    assert in_container(engine, mini, *argv, options=("--network=none", *AS_ALICE)).strip() == "made"


def test_the_place_of_our_commands_is_first_for_a_script_and_for_a_login_shell(engine: Engine, mini: Image) -> None:
    for shell in (("bash", "-c"), ("bash", "-l", "-c")):
        path = in_container(engine, mini, *shell, "echo $PATH", options=("--network=none", *AS_ALICE))
        assert path.startswith("/opt/overspill/bin:"), shell


def test_nothing_that_only_the_build_needed_is_left_inside(engine: Engine, mini: Image) -> None:
    find = ("find", "/var/cache/apt", "/var/lib/apt/lists", "/var/log", "/tmp", "-type", "f", "-not", "-name", "lock")
    assert in_container(engine, mini, *find) == ""
    assert "policy-rc.d" not in in_container(engine, mini, "ls", "/usr/sbin")


def test_an_image_may_be_built_upon_one_of_the_admins(based: tuple[Engine, Image]) -> None:
    engine, image = based
    assert in_container(engine, image, "ls", "/of-the-admin").strip() == "/of-the-admin"
    form = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'
    assert docker(engine.socket, "image", "inspect", f"--format={form}", image.reference).strip().endswith("/base.tar")


def test_the_admins_certificate_authority_is_trusted_inside_and_only_where_it_was_given(
    engine: Engine, mini: Image, based: tuple[Engine, Image], authority: trustme.CA
) -> None:
    program = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1]).status)"
    with https_server(authority) as url:
        argv, options = ("python3", "-c", program, url), ("--network=host",)
        assert in_container(*based, *argv, options=options).strip() == "200"
        with pytest.raises(ChildProcessError, match="CERTIFICATE_VERIFY_FAILED"):
            in_container(engine, mini, *argv, options=options)


class _Ok(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def https_server(authority: trustme.CA) -> Iterator[str]:
    """Answer every request with 200 on a port of this machine's loopback."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Ok) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_base_that_is_no_image_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "base.tar"
    odd.write_bytes(b"no archive")
    with pytest.raises(ChildProcessError, match="load"):
        Builder(Options(base=str(odd)), cache=tmp_path).build([MINI])


def test_a_base_without_apt_fails_with_what_the_build_said(engine: Engine, tmp_path: Path) -> None:
    base = tmp_path / "base.tar"
    docker(engine.socket, "import", str(_tar_of_nothing(tmp_path)), "admins/nothing:1")
    docker(engine.socket, "save", "--output", str(base), "admins/nothing:1")
    with pytest.raises(ChildProcessError, match=r"RUN overspill-install[\s\S]*(no such file|not found)"):
        Builder(Options(base=str(base)), cache=tmp_path).build([MINI])


def _tar_of_nothing(directory: Path) -> Path:
    archive = directory / "nothing.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    return archive
