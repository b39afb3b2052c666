"""For how long runs have waited for their start."""

from overspill_agent.delays import StartDelays

_HOUR_MS = 3_600_000


def test_the_median_of_the_last_starts_is_told_and_one_odd_run_does_not_count() -> None:
    delays = StartDelays()
    assert delays.median_ms(0) is None
    for number, delay in enumerate((1_000, 2_000, 900_000)):
        delays.note(number, number + delay)
    assert delays.median_ms(900_002) == 2_000
    for number in range(1_000_000, 1_000_030):
        delays.note(number, number + 50)
    assert delays.median_ms(1_000_080) == 50


def test_starts_of_long_ago_tell_nothing_and_a_clock_that_went_back_is_no_delay() -> None:
    delays = StartDelays()
    delays.note(0, 500)
    assert delays.median_ms(_HOUR_MS + 500) == 500
    assert delays.median_ms(_HOUR_MS + 501) is None
    delays.note(2 * _HOUR_MS, _HOUR_MS)
    assert delays.median_ms(_HOUR_MS + 1) == 250
