"""Turns at the wait model: one at a time, and whoever is in a hurry is next."""

from __future__ import annotations

import threading

import pytest

from overspill_sidecar.wait.turns import Turns
from tests.rig.waiting import poll

_LONG_S = 20.0


def test_who_hurries_is_next_although_another_takes_one_turn_after_the_other() -> None:
    turns, order = Turns(), list[str]()

    def hurry() -> None:
        if turns.take_next(_LONG_S):
            order.append("hurried")
            turns.give_up()

    for _ in range(50):
        order.clear()
        hurrying = threading.Thread(target=hurry)
        with turns:
            hurrying.start()
            assert poll(lambda: turns.is_somebody_hurrying, timeout_s=_LONG_S, interval_s=0.001)
        with turns:
            order.append("without hurry")
        hurrying.join(_LONG_S)
        assert order == ["hurried", "without hurry"]


def test_who_hurries_goes_without_a_turn_when_patience_is_over_and_holds_nobody_up() -> None:
    turns = Turns()
    with turns:
        assert not turns.take_next(0.01)
    assert not turns.is_somebody_hurrying
    with turns:
        pass
    assert turns.take_next(0.01)
    turns.give_up()


def test_an_error_ends_the_turn() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns:
        raise KeyError
    assert turns.take_next(0.01)
