"""What HTCondor's refusals mean, by its own words, and whether the token can be any good."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from overspill.errors import AdminError, UnavailableError
from overspill_agent.backends.htcondor.refusals import is_owner_refused, meaning_of, token_problem

NOW_S = 1_800_000_000.0


def token(**claims: object) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "kid": "POOL"}, {"sub": "agent@site", **claims})]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + ".c2lnbmF0dXJl\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "agent").write_text(token())
    return tmp_path


def test_a_token_without_an_end_or_before_it_is_good(tokens: Path) -> None:
    assert token_problem(tokens, NOW_S) == ""
    (tokens / "agent").write_text(token(exp=NOW_S + 1))
    assert token_problem(tokens, NOW_S) == ""


def test_an_expired_token_is_named_with_what_to_do(tokens: Path) -> None:
    (tokens / "agent").write_text(token(exp=NOW_S - 1))
    problem = token_problem(tokens, NOW_S)
    assert f"{tokens}/agent has expired" in problem
    assert "condor_token_create" in problem


def test_one_good_token_among_expired_ones_is_enough(tokens: Path) -> None:
    (tokens / "old").write_text(token(exp=NOW_S - 1))
    assert token_problem(tokens, NOW_S) == ""


@pytest.mark.parametrize("content", ["", "no token", "a.b.c"])
def test_what_is_no_token_is_said_to_be_none(tokens: Path, content: str) -> None:
    (tokens / "agent").write_text(content)
    assert "no IDTOKEN" in token_problem(tokens, NOW_S)


def test_a_missing_directory_and_an_empty_one_are_told(tmp_path: Path) -> None:
    assert "No such file" in token_problem(tmp_path / "none", NOW_S)
    assert "there is no IDTOKEN" in token_problem(tmp_path, NOW_S)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "Failed to fetch ads from schedd, errmsg=AUTHENTICATE:1003:Failed to authenticate with any method",
            "another pool",
        ),
        ('Failed to connect to schedd, errmsg=SECMAN:2010:Received "DENIED" from server for user a@b', "ALLOW_READ"),
        ("SCHEDD:2:Setting owner to carol when active owner is agent is not permitted", "QUEUE_SUPER_USER"),
        ('SCHEDD:2:Setting owner to "agent", which is not a valid user account', "make the account"),
        ('SCHEDD:2:Setting job owner to "root" is not permitted', "QUEUE_SUPER_USER"),
    ],
)
def test_what_somebody_must_mend_is_for_the_admin(tokens: Path, message: str, words: str) -> None:
    meaning = meaning_of(message, "cannot submit", tokens, NOW_S)
    assert isinstance(meaning, AdminError)
    assert words in meaning.reason
    assert message in meaning.reason


@pytest.mark.parametrize(
    "message",
    [
        "Failed communication with collector.",
        "Failed to fetch ads from schedd, errmsg=CEDAR:6001:Failed to connect to <10.88.0.99:9618>",
        "SECMAN:2007:Failed to read resume session response classad from server.",
        "SECMAN:2011:Connection closed during command authorization. Probably due to an unknown command.",
        "Error when performing action on the schedd.",
    ],
)
def test_what_passes_is_to_be_tried_again(tokens: Path, message: str) -> None:
    assert isinstance(meaning_of(message, "cannot ask", tokens, NOW_S), UnavailableError)


def test_a_silent_refusal_of_an_expired_token_is_told_from_a_pool_that_is_down(tokens: Path) -> None:
    (tokens / "agent").write_text(token(exp=NOW_S - 1))
    meaning = meaning_of("Failed communication with collector.", "cannot ask", tokens, NOW_S)
    assert isinstance(meaning, AdminError)
    assert "has expired" in meaning.reason


def test_only_a_refused_owner_is_worth_an_introduction() -> None:
    assert is_owner_refused("Setting owner to alice when active owner is agent is not permitted")
    assert not is_owner_refused('Setting owner to "agent", which is not a valid user account')
    assert not is_owner_refused("Failed to connect to schedd")
