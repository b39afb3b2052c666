"""The shim's protobuf against Google's, message for message."""

import re
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from overspill.v1 import router_pb2
from tests.unit.lua_runtime import VERSIONS, failure_of, module, new_runtime, to_lua

RUNTIMES = {version: new_runtime(version) for version in VERSIONS}
versions = st.sampled_from(VERSIONS)

KINDS = {
    FieldDescriptor.TYPE_UINT32: "uint",
    FieldDescriptor.TYPE_UINT64: "uint",
    FieldDescriptor.TYPE_ENUM: "uint",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
}

# Fields that a submission never has.
NOT_THE_SHIMS = {"is_dry_run", "predicted_wait_s", "is_wait_upper_bound"}

texts = st.text(max_size=50).filter(lambda text: "\0" not in text)
uint32s = st.integers(0, 2**32 - 1)
exact = st.integers(0, 2**53)

REQUEST_VALUES = {
    "uint32": uint32s,
    "uint64": exact,
    "bool": st.booleans(),
    "string": texts,
    "repeated": st.lists(texts, max_size=3),
}


def _kind_of_value(field: FieldDescriptor) -> str:
    if field.is_repeated:
        return "repeated"
    return {FieldDescriptor.TYPE_UINT64: "uint64", FieldDescriptor.TYPE_UINT32: "uint32"}.get(
        field.type, KINDS[field.type]
    )


requests = st.fixed_dictionaries(
    {},
    optional={
        field.name: REQUEST_VALUES[_kind_of_value(field)]
        for field in router_pb2.DecideRequest.DESCRIPTOR.fields
        if field.name not in NOT_THE_SHIMS
    },
)
responses = st.builds(
    router_pb2.DecideResponse,
    verdict=st.sampled_from([0, 1, 2, 3]),
    decision_id=texts,
    partition=texts,
    admin_comment=texts,
    time_limit_min=uint32s,
    memory_per_cpu_mib=exact,
    memory_per_node_mib=exact,
    user_message=texts,
    reason=texts,
)


def _schema(version: str, name: str) -> Any:
    return module(RUNTIMES[version], "router")[name]


def _protobuf(version: str) -> Any:
    return module(RUNTIMES[version], "protobuf")


def _as_bytes_seen_as_latin1(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode().decode("latin-1")
    if isinstance(value, list):
        return [_as_bytes_seen_as_latin1(item) for item in value]
    return value


@pytest.mark.parametrize(
    ("schema_name", "descriptor"),
    [
        ("REQUEST_SCHEMA", router_pb2.DecideRequest.DESCRIPTOR),
        ("RESPONSE_SCHEMA", router_pb2.DecideResponse.DESCRIPTOR),
    ],
)
def test_the_schema_is_the_one_of_the_proto_file(schema_name: str, descriptor: Descriptor) -> None:
    in_lua = {
        (field["number"], field["name"], field["kind"], bool(field["is_repeated"]))
        for field in _schema("lua51", schema_name).fields.values()
    }
    in_proto = {
        (field.number, field.name, KINDS[field.type], field.is_repeated)
        for field in descriptor.fields
        if field.name not in NOT_THE_SHIMS
    }
    assert in_lua == in_proto


@given(versions, requests)
def test_python_reads_what_lua_wrote(version: str, fields: dict[str, Any]) -> None:
    table = to_lua(RUNTIMES[version], {name: _as_bytes_seen_as_latin1(value) for name, value in fields.items()})
    encoded = _protobuf(version).encode(_schema(version, "REQUEST_SCHEMA"), table).encode("latin-1")
    assert router_pb2.DecideRequest.FromString(encoded) == router_pb2.DecideRequest(**fields)


@given(versions, responses)
def test_lua_reads_what_python_wrote(version: str, response: router_pb2.DecideResponse) -> None:
    encoded = response.SerializeToString().decode("latin-1")
    decoded = _protobuf(version).decode(_schema(version, "RESPONSE_SCHEMA"), encoded)
    for field in router_pb2.DecideResponse.DESCRIPTOR.fields:
        if field.name in NOT_THE_SHIMS:
            continue
        assert decoded[field.name] == _as_bytes_seen_as_latin1(getattr(response, field.name)), field.name


NEWER_FIELDS = {
    "varint": b"\xa0\x06\x05",
    "fixed64": b"\xa1\x06" + b"8" * 8,
    "delimited": b"\xa2\x06\x03abc",
    "fixed32": b"\xa5\x06" + b"4" * 4,
    "known number, other type": b"\x0a\x01x",
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("field", NEWER_FIELDS.values(), ids=NEWER_FIELDS)
def test_fields_of_a_newer_peer_are_skipped(version: str, field: bytes) -> None:
    encoded = (field + b"\x08\x02" + field).decode("latin-1")
    assert _protobuf(version).decode(_schema(version, "RESPONSE_SCHEMA"), encoded)["verdict"] == 2


@given(versions, st.binary(max_size=60))
def test_bytes_that_are_no_message_are_a_protocol_failure_and_nothing_else(version: str, garbage: bytes) -> None:
    runtime = RUNTIMES[version]
    decode_response = module(runtime, "router").decode_response
    assert failure_of(runtime, decode_response, garbage.decode("latin-1")) in {None, "protocol"}


@given(versions, st.binary(max_size=60) | st.text().map(str.encode))
def test_a_text_that_is_no_utf8_gets_question_marks_for_all_beyond_ascii(version: str, raw: bytes) -> None:
    sent = _protobuf(version).to_utf8(raw.decode("latin-1")).encode("latin-1")
    try:
        raw.decode()
        assert sent == raw
    except UnicodeDecodeError:
        assert sent == re.sub(b"[\x80-\xff]", b"?", raw)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", [-1, 0.5, 2**54, float("inf"), float("nan")])
def test_a_number_that_no_varint_holds_is_refused(version: str, number: float) -> None:
    runtime = RUNTIMES[version]
    encode_request = module(runtime, "router").encode_request
    assert failure_of(runtime, encode_request, to_lua(runtime, {"user_id": number})) == "internal"
