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
            assert poll(lambda: turns._hurrying == 1, timeout_s=_LONG_S, interval_s=0.001)  # noqa: SLF001 - nobody else asks
        with turns:
            order.append("without hurry")
        hurrying.join(_LONG_S)
        assert order == ["hurried", "without hurry"]


def test_of_two_who_hurry_both_are_before_everybody_else() -> None:
    turns, order = Turns(), list[str]()

    def hurry_and_come_again() -> None:
        if turns.take_next(_LONG_S):
            order.append("hurried")
            turns.give_up()
        with turns:
            order.append("without hurry")

    for _ in range(50):
        order.clear()
        threads = [threading.Thread(target=hurry_and_come_again) for _ in range(2)]
        with turns:
            for thread in threads:
                thread.start()
            assert poll(lambda: turns._hurrying == 2, timeout_s=_LONG_S, interval_s=0.001)  # noqa: SLF001 - as above
        for thread in threads:
            thread.join(_LONG_S)
        assert order == ["hurried"] * 2 + ["without hurry"] * 2


def test_who_hurries_goes_without_a_turn_when_patience_is_over_and_holds_nobody_up() -> None:
    turns = Turns()
    with turns:
        assert not turns.take_next(0.01)
    with turns:
        pass
    assert turns.take_next(0.01)
    turns.give_up()


def test_an_error_ends_the_turn() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns:
        raise KeyError
    assert turns.take_next(0.01)
