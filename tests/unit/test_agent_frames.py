"""The runner's upload, cut wherever the network cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import InvalidRequestError
from overspill.runner_protocol import FRAME_HEADER, MAX_FRAME_BYTES, RunnerFrame
from overspill_agent.service.frames import Frame, FrameParser
from overspill_agent.service.reports import Ended, Signalled, Started, parse_report

frames = st.builds(Frame, st.sampled_from(RunnerFrame), st.integers(0, 2**64 - 1), st.binary(max_size=50))


@given(st.lists(frames, max_size=10), st.lists(st.integers(1, 30), max_size=50))
def test_frames_come_out_as_they_went_in_however_they_were_cut(sent: list[Frame], cuts: list[int]) -> None:
    body = b"".join(FRAME_HEADER.pack(f.kind, len(f.payload), f.number) + f.payload for f in sent)
    parser, rest = FrameParser(), body
    received: list[Frame] = []
    for cut in [*cuts, len(body)]:
        received += parser.feed(rest[:cut])
        rest = rest[cut:]
    assert received == sent


@pytest.mark.parametrize(
    "header",
    [
        FRAME_HEADER.pack(9, 0, 0),
        FRAME_HEADER.pack(RunnerFrame.STDOUT, MAX_FRAME_BYTES + 1, 0),
    ],
)
def test_what_is_no_frame_is_refused_at_its_header(header: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        list(FrameParser().feed(header))


def test_reports_are_read_and_what_a_newer_runner_adds_is_ignored() -> None:
    assert parse_report(b'{"kind": "started", "pid": 2, "new": 1}') == Started(kind="started")
    assert parse_report(b'{"kind": "signalled", "seq": 3}') == Signalled(kind="signalled", seq=3)
    ended = parse_report(b'{"kind": "ended", "signal": 9, "timed_out": true, "stdout": 5, "stderr": 0, "error": null}')
    assert isinstance(ended, Ended)
    report = ended.end_report()
    assert (report.signal, report.exit_code, report.is_timed_out, report.stdout_bytes) == (9, None, True, 5)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"kind": "ended"}', b'{"kind": "other"}', b"\xff"])
def test_what_is_no_report_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_report(payload)
