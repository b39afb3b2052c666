"""Merging a member into an admin_comment that may be anything."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lua_runtime import VERSIONS, module, new_runtime

MODULES = {version: module(new_runtime(version), "json") for version in VERSIONS}
versions = st.sampled_from(VERSIONS)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(["overspill", "a", 'b"\\\n', "é"]), values)
layouts = st.sampled_from([{"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}, {}])


def _merge(version: str, text: str, value: str = '{"site":"a"}') -> str | None:
    merged = MODULES[version].with_member(text.encode().decode("latin-1"), "overspill", value)
    return None if merged is None else merged.encode("latin-1").decode()


@given(versions, objects, layouts)
def test_an_object_keeps_every_other_member(version: str, existing: dict[str, Any], layout: dict[str, Any]) -> None:
    merged = _merge(version, json.dumps(existing, **layout))
    assert merged is not None
    assert json.loads(merged) == existing | {"overspill": {"site": "a"}}


@given(versions, values.filter(lambda value: not isinstance(value, dict)), layouts)
def test_json_that_is_no_object_is_declined(version: str, existing: Any, layout: dict[str, Any]) -> None:
    assert _merge(version, json.dumps(existing, **layout)) is None


@given(versions, st.text(alphabet='{}[]":,\\u0a1.-e tn', max_size=20))
def test_whatever_is_accepted_is_an_object_to_python_too(version: str, text: str) -> None:
    try:
        is_object = isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        is_object = False
    assert MODULES[version].is_object(text) == is_object


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "text",
    ["", " ", "project X", "{", "{}x", "{x", "{}{}", '{"a":1,}', '{"a" 1}', "{'a':1}", '{"a":01}', '{"a":"\t"}',
     '{"a":"\\x"}', '{"a":' + "[" * 100 + "]" * 100 + "}"],
)  # fmt: skip
def test_text_that_is_no_json_object_is_declined(version: str, text: str) -> None:
    assert _merge(version, text) is None


@pytest.mark.parametrize("version", VERSIONS)
def test_the_other_members_are_kept_to_the_letter(version: str) -> None:
    assert _merge(version, ' { "n" : 1.50E+2 ,\n"o":{ "x":[ ] } } ') == (
        '{"n" : 1.50E+2,"o":{ "x":[ ] },"overspill":{"site":"a"}}'
    )
