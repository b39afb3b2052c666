"""Whom a cluster's users are here."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from overspill.errors import NotPermittedError
from overspill_agent.backends.accounts import (
    Mapped,
    check_value,
    mapped_account,
    resolve_account,
    resolve_mapping,
)

ACCOUNTS = {
    "rig": {"alice": "alice", "bob": "robert", "mallory": "", "*": "%hpc"},
    "guests": {"*": "guest"},
    "strict": {"alice": "alice"},
}


@pytest.mark.parametrize(
    ("cluster", "user", "mapped"),
    [
        ("rig", "bob", Mapped("robert")),
        ("rig", "carol", Mapped("carol", "hpc")),
        ("guests", "anybody", Mapped("guest")),
        ("strict", "alice", Mapped("alice")),
    ],
)
def test_a_users_own_line_counts_before_everybody_elses(cluster: str, user: str, mapped: Mapped) -> None:
    assert mapped_account(ACCOUNTS, cluster, user) == mapped


@pytest.mark.parametrize(("cluster", "user"), [("rig", "mallory"), ("rig", "*"), ("strict", "bob"), ("none", "alice")])
def test_who_is_not_mapped_is_nobody(cluster: str, user: str) -> None:
    with pytest.raises(NotPermittedError, match="has no account at this site"):
        mapped_account(ACCOUNTS, cluster, user)


@pytest.mark.parametrize("user", ["root", "daemon", "nobody"])
def test_no_group_makes_a_systems_account_good(user: str) -> None:
    with pytest.raises(NotPermittedError, match="belongs to the system"):
        resolve_mapping(Mapped(user, "hpc"))


def test_an_account_must_be_in_the_group_that_lets_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("carol", "x", 5001, 5001, "", "/home/carol", "/bin/sh"))
    groups = {"hpc": grp.struct_group(("hpc", "x", 6000, [])), "own": grp.struct_group(("own", "x", 5001, []))}
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: entry)
    monkeypatch.setattr(grp, "getgrnam", groups.__getitem__)
    assert resolve_mapping(Mapped("carol", "own")).uid == 5001
    with pytest.raises(NotPermittedError, match="not in group 'hpc'"):
        resolve_mapping(Mapped("carol", "hpc"))


@pytest.mark.parametrize("value", ["%root", "%daemon", "%no-such-group", "root", "no-such-user"])
def test_a_line_that_would_let_the_system_in_is_told(value: str) -> None:
    with pytest.raises(NotPermittedError):
        check_value(value)


def test_a_run_gets_nothing_of_what_the_systems_groups_open(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("carol", "x", 5001, 5001, "", "/home/carol", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: entry)
    root, sudo, shadow, users, docker, hpc = 0, 27, 42, 100, 999, 6000
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, root, sudo, shadow, users, docker, hpc])
    assert resolve_account("carol").groups == (5001, users, hpc)


@pytest.mark.parametrize("gid", [0, 42, 999])
def test_an_account_whose_own_group_is_the_systems_has_no_runs(monkeypatch: pytest.MonkeyPatch, gid: int) -> None:
    entry = pwd.struct_passwd(("carol", "x", 5001, gid, "", "/home/carol", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: entry)
    with pytest.raises(NotPermittedError, match="system's group"):
        resolve_account("carol")
