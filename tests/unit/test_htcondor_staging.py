"""The files of jobs while they are sent: what is left of them, and by whom it is removed."""

import os
import time
from pathlib import Path

from overspill_agent.backends.htcondor.staging import remove_abandoned, stage

DAY_S = 86_400


def test_a_jobs_files_are_in_a_directory_that_only_the_agent_reads(tmp_path: Path) -> None:
    one, other = stage(tmp_path, {"token": b"secret"}), stage(tmp_path, {"token": b"other"})
    assert one != other
    assert (one / "token").read_bytes() == b"secret"
    assert one.stat().st_mode & 0o777 == 0o700


def test_what_a_dead_agent_has_left_is_removed_and_what_is_being_sent_is_not(tmp_path: Path) -> None:
    abandoned, current = stage(tmp_path, {"token": b"old"}), stage(tmp_path, {"token": b"new"})
    day_before = time.time() - DAY_S
    os.utime(abandoned, (day_before, day_before))
    remove_abandoned(tmp_path, time.time())
    assert list(tmp_path.iterdir()) == [current]
