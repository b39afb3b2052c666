"""What the relay gives to those whom it does not know yet."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from structlog.testing import capture_logs

from overspill.errors import ExhaustedError
from overspill_sidecar.relay.admission import Admission, RefusalLog


def test_one_users_unverified_connections_leave_room_for_another_users() -> None:
    admission = Admission()
    with ExitStack() as connections:
        for _ in range(64):
            connections.enter_context(admission.unverified(2001))
        with pytest.raises(ExhaustedError), admission.unverified(2001):
            pass
        with admission.unverified(2002):
            pass
    with admission.unverified(2001):
        pass


def test_a_job_sends_no_more_than_two_openings_at_once() -> None:
    admission = Admission()
    with ExitStack() as connections:
        for slurm_job_id in (7, 7, 8):
            connections.enter_context(admission.opening(slurm_job_id))
        with pytest.raises(ExhaustedError):
            connections.enter_context(admission.opening(7))


def test_a_flood_of_refusals_is_one_line_a_minute_with_their_number() -> None:
    refusals = RefusalLog()
    with capture_logs() as lines:
        for second in range(120):
            refusals.note(float(second), 2001, "stranger", "why")
        refusals.note(120.0, 2001, "stranger", "why")
        refusals.note(120.0, 2002, "stranger", "why")
    assert [(line["user_id"], line["count"]) for line in lines] == [(2001, 1), (2001, 60), (2001, 60), (2002, 1)]
