"""Which GPUs each run of the local back end has."""

from pathlib import Path

import pytest

from overspill.errors import ExhaustedError
from overspill_agent.backends.attempt import claimed, lock_path
from overspill_agent.backends.devices import Devices, Gpus

GPUS = Gpus(ids=("0", "1", "2"), files=("/dev/nvidia{id}", "/dev/nvidiactl"))


def test_each_living_attempt_has_its_own_and_a_restarted_agent_knows(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    with claimed(lock_path(tmp_path / "a", 1)):
        assert Devices(tmp_path, GPUS).give(tmp_path / "a", 1, 2) == ("0", "1")
        with claimed(lock_path(tmp_path / "b", 1)):
            assert Devices(tmp_path, GPUS).give(tmp_path / "b", 1, 1) == ("2",)
            with claimed(lock_path(tmp_path / "c", 1)), pytest.raises(ExhaustedError, match="1 GPUs are wanted and 0"):
                Devices(tmp_path, GPUS).give(tmp_path / "c", 1, 1)
        # What has ended has none, and what was begun before takes its own anew.
        assert Devices(tmp_path, GPUS).give(tmp_path / "c", 1, 1) == ("2",)


def test_an_attempt_whose_start_has_failed_is_given_gpus_again(tmp_path: Path) -> None:
    devices, run = Devices(tmp_path, GPUS), tmp_path / "a"
    run.mkdir()
    with claimed(lock_path(run, 1)):
        assert devices.give(run, 1, 3) == devices.give(run, 1, 3)


def test_who_asks_for_none_gets_none(tmp_path: Path) -> None:
    assert Devices(tmp_path, Gpus()).give(tmp_path, 1, 0) == ()


def test_device_files_are_those_of_the_own_gpus_and_the_common_ones() -> None:
    assert GPUS.files_of(["0", "2"]) == ["/dev/nvidia0", "/dev/nvidia2", "/dev/nvidiactl"]
    assert GPUS.files_of([]) == []
