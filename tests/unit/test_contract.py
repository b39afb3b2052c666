"""The shared vocabulary: states, request ids, errors, and the generated code's agreement with them."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill import errors
from overspill.proxy_framing import HEADER, MAX_PAYLOAD_BYTES, FrameType, FramingError, decode_header, encode
from overspill.request_id import RequestId
from overspill.states import TRANSITIONS, Outcome, RunState, is_allowed
from overspill.v1 import agent_pb2


def test_every_state_has_its_transitions_and_its_number_on_the_wire() -> None:
    assert set(TRANSITIONS) == set(RunState)
    assert {f"RUN_STATE_{state}" for state in RunState} == set(agent_pb2.RunState.keys()) - {"RUN_STATE_UNSPECIFIED"}
    assert {f"RUN_OUTCOME_{name}" for name in Outcome} == set(agent_pb2.RunOutcome.keys()) - {"RUN_OUTCOME_UNSPECIFIED"}


def test_a_run_can_end_from_everywhere_and_leave_its_end_for_nowhere() -> None:
    assert all(is_allowed(state, RunState.ENDED) for state in RunState if not state.is_terminal)
    assert not any(is_allowed(RunState.ENDED, state) for state in RunState)


@given(st.lists(st.sampled_from(RunState)))
def test_no_walk_through_the_table_comes_back_but_from_suspension(walk: list[RunState]) -> None:
    order = list(RunState)
    current = RunState.ACCEPTED
    for state in walk:
        if is_allowed(current, state):
            went_back = order.index(state) < order.index(current)
            assert not went_back or (current, state) == (RunState.SUSPENDED, RunState.RUNNING)
            current = state


request_ids = st.builds(
    RequestId,
    slurm_cluster=st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True),
    slurm_job_id=st.integers(1, 2**26),
    array_task_id=st.none() | st.integers(0, 10**6),
    submit_time_s=st.integers(0, 2**33),
    restart_count=st.integers(0, 100),
)


@given(request_ids, request_ids)
def test_two_attempts_never_share_a_request_id(one: RequestId, other: RequestId) -> None:
    assert (str(one) == str(other)) == (one == other)


def _all_subclasses(cls: type[errors.OverspillError]) -> set[type[errors.OverspillError]]:
    here = (sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__)
    return {cls}.union(*(_all_subclasses(sub) for sub in here))


def test_the_error_tree_at_the_top_of_its_module_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    for error in _all_subclasses(errors.OverspillError):
        assert error.__name__ in errors.__doc__
        assert error.is_retryable == issubclass(error, errors.TransientError)


class _FailedRpc(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "the details"


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_code_comes_off_the_wire_as_an_error_that_says_why(code: grpc.StatusCode) -> None:
    error = errors.from_rpc_error(_FailedRpc(code))
    is_defect = isinstance(error, errors.AdminError)
    assert error.reason == (f"the details ({code.name})" if is_defect else "the details")


@pytest.mark.parametrize("error", sorted(_all_subclasses(errors.OverspillError), key=str))
def test_an_error_keeps_its_family_across_the_wire(error: type[errors.OverspillError]) -> None:
    received = errors.from_rpc_error(_FailedRpc(error.code))
    assert received.is_retryable == error.is_retryable


@given(st.sampled_from(FrameType), st.binary(max_size=1000))
def test_a_frame_is_read_as_it_was_written(frame_type: FrameType, payload: bytes) -> None:
    frame = encode(frame_type, payload)
    assert decode_header(frame[: HEADER.size]) == (frame_type, len(payload))
    assert frame[HEADER.size :] == payload


@pytest.mark.parametrize(
    "header", [HEADER.pack(MAX_PAYLOAD_BYTES + 1, FrameType.HELLO), HEADER.pack(0, 0), HEADER.pack(0, 255)]
)
def test_what_is_no_frame_is_refused_before_its_payload_is_read(header: bytes) -> None:
    with pytest.raises(FramingError):
        decode_header(header)
