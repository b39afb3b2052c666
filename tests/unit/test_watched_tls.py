"""Certificates that are replaced while they are in use, in the ways that people and tools replace files."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
import trustme

from overspill.tls import TlsFiles, TlsMaterial, WatchedTls


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    """A certificate with its key in one file, and the authority."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    pem = tmp_path / "cluster.pem"
    pem.write_bytes(_issued(authority))
    pem.with_name("next.pem").write_bytes(_issued(authority))
    return TlsFiles(certificate=pem, private_key=pem, ca=tmp_path / "ca.pem")


def _issued(authority: trustme.CA) -> bytes:
    return authority.issue_cert("rig").private_key_and_cert_chain_pem.bytes()


def _next(files: TlsFiles) -> bytes:
    return files.certificate.with_name("next.pem").read_bytes()


@contextmanager
def _no_descriptors() -> Iterator[None]:
    """Let files be looked at, but not opened: so is one that its writer has not yet given away."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_could_not_be_read_at_first_is_used_once_it_can(files: TlsFiles) -> None:
    watched = WatchedTls(files)
    before = watched.current()
    files.certificate.write_bytes(_next(files))
    with _no_descriptors():
        assert watched.current() is before
    assert watched.current().certificate == _next(files)


def test_a_certificate_is_used_again_after_another_that_could_not_be_and_none_at_all(files: TlsFiles) -> None:
    watched = WatchedTls(files)
    first = files.certificate.read_bytes()
    for unusable in (_next(files), b"", first[: len(first) // 2]):
        files.certificate.write_bytes(unusable)
        watched.current()
    files.certificate.unlink()
    watched.current()
    files.certificate.write_bytes(first)
    assert watched.current().certificate == first


def test_a_certificate_with_the_size_and_the_time_of_the_one_before_is_used(files: TlsFiles) -> None:
    watched, before = WatchedTls(files), files.certificate.stat()
    first, size = files.certificate.read_bytes(), max(before.st_size, len(_next(files)))
    files.certificate.write_bytes(first.ljust(size, b"\n"))
    assert watched.current().certificate == first.ljust(size, b"\n")
    files.certificate.write_bytes(_next(files).ljust(size, b"\n"))
    os.utime(files.certificate, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watched.current().certificate == _next(files).ljust(size, b"\n")


def test_touched_files_that_say_the_same_change_nothing(files: TlsFiles) -> None:
    watched = WatchedTls(files)
    before = watched.current()
    with structlog.testing.capture_logs() as logs:
        files.certificate.write_bytes(files.certificate.read_bytes())
        files.ca.chmod(0o640)
        assert watched.current() is before
    assert not logs


def test_what_is_wrong_with_a_replaced_file_is_logged_once(files: TlsFiles) -> None:
    watched = WatchedTls(files)
    files.certificate.write_bytes(b"nothing")
    with structlog.testing.capture_logs() as logs:
        used: list[TlsMaterial] = [watched.current() for _ in range(3)]
    assert len({id(material) for material in used}) == 1
    assert [event["action"] for event in logs] == ["certificate_refused"]
