"""Capacity given away before Slurm shows the job."""

from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.decision.capacity import Amount
from overspill_sidecar.decision.promises import Promise, Promises


def test_a_promise_counts_until_its_job_is_seen() -> None:
    promises = Promises(30)
    promises.add(Promise("d-1", "site-a", Amount(2, 100), jobs=1, made_at=0))
    promises.add(Promise("d-2", "site-a", Amount(3, 200), jobs=4, made_at=1))
    assert promises.by_site(2) == {"site-a": Amount(5, 300)}
    assert promises.jobs_by_site(2) == {"site-a": 5}
    promises.drop_seen({"d-1", "d-of-somebody-else"})
    assert promises.by_site(2) == {"site-a": Amount(3, 200)}
    assert promises.jobs_by_site(2) == {"site-a": 4}


def test_a_promise_to_a_job_that_never_appears_lapses() -> None:
    promises = Promises(30)
    promises.add(Promise("d-1", "site-a", Amount(2, 100), jobs=1, made_at=0))
    assert promises.by_site(29.9)
    assert promises.jobs_by_site(30) == {"site-a": 0}
    assert promises.by_site(30) == {"site-a": Amount()}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 64), st.floats(0, 100))), st.floats(0, 200))
def test_what_is_promised_is_what_was_given_within_the_time_to_live(
    given_away: list[tuple[str, int, float]], now: float
) -> None:
    promises = Promises(30)
    for number, (site, cpus, made_at) in enumerate(sorted(given_away, key=lambda promise: promise[2])):
        promises.add(Promise(str(number), site, Amount(cpus, 0), 2, made_at))
    for site in "ab":
        alive = sum(cpus for name, cpus, made_at in given_away if name == site and made_at + 30 > now)
        assert promises.open_at(now).get(site, Amount()).cpus == alive
        assert promises.by_site(now).get(site, Amount()).cpus == alive
