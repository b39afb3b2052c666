"""Capacity given away before Slurm shows the job."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import UnavailableError
from overspill_sidecar.cluster import Job
from overspill_sidecar.decision.budget import AccountUse
from overspill_sidecar.decision.capacity import Amount
from overspill_sidecar.decision.promises import Promise, Promises
from overspill_sidecar.slurm.queries import parse_trail
from tests.unit.late_place import Place, diverted


def _promise(name: str, made_at: float = 0, cpus: int = 2, jobs: int = 1, site: str = "site-a") -> Promise:
    return Promise(name, site, Amount(cpus, 100), AccountUse(jobs, cpus * 3600), "physics", made_at)


def test_a_promise_counts_until_its_job_is_seen() -> None:
    promises = Promises(30)
    promises.add(_promise("d-1"))
    promises.add(_promise("d-2", made_at=1, cpus=3, jobs=4))
    assert promises.by_site == {"site-a": Amount(5, 200)}
    assert promises.jobs_by_site == {"site-a": 5}
    assert promises.use_by_account == {"physics": AccountUse(5, 5 * 3600)}
    assert promises.unsettled({"d-1"}, asked_at=2) == {"site-a": Amount(3, 100)}
    promises.settle({"d-1", "d-of-somebody-else"}, asked_at=2)
    assert promises.by_site == {"site-a": Amount(3, 100)}
    assert promises.jobs_by_site == {"site-a": 4}
    assert promises.use_by_account == {"physics": AccountUse(4, 3 * 3600)}


def test_a_promise_to_a_job_that_never_appears_lapses_with_a_snapshot_that_should_have_shown_it() -> None:
    promises = Promises(30)
    promises.add(_promise("d-1"))
    promises.settle((), asked_at=29.9)
    assert promises.by_site == {"site-a": Amount(2, 100)}
    assert promises.unsettled((), asked_at=30) == {}
    promises.settle((), asked_at=30)
    assert promises.by_site == {"site-a": Amount()}
    assert promises.jobs_by_site == {"site-a": 0}


def test_a_promise_whose_job_a_later_snapshot_does_not_show_is_missed() -> None:
    promises = Promises(30)
    assert not promises.is_missing((), asked_at=5)
    promises.add(_promise("d-1", made_at=2))
    assert not promises.is_missing((), asked_at=2)
    assert promises.is_missing((), asked_at=2.1)
    assert not promises.is_missing({"d-1"}, asked_at=2.1)
    assert not promises.is_missing((), asked_at=32)


def _submit(place: Place) -> Job:
    """Have a job diverted, and its record made by a Slurm that has not been looked at since."""
    asyncio.run(place.watch.refresh())
    answer = place.decide(partition="batch", cpus_per_task=8, user_id=2001)
    assert answer.partition == "batch,overspill"
    comment = f'{{"overspill":{answer.admin_comment}}}'
    return diverted(77, cpus=8, admin_comment=comment, trail=parse_trail(comment))


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETED"])
def test_a_job_that_is_over_before_any_snapshot_shows_it_keeps_no_slot_from_others(state: str) -> None:
    place = Place()
    job = _submit(place)
    place.view.jobs[77] = replace(job, state=state)
    assert place.decide(partition="batch").reason == "no_free_slot"
    asyncio.run(place.watch.refresh())
    assert place.decide(partition="batch").partition == "batch,overspill"


def test_a_submission_that_slurm_has_not_made_a_job_of_yet_keeps_its_slot() -> None:
    place = Place()
    _submit(place)
    asyncio.run(place.watch.refresh())
    assert place.decide(partition="batch").reason == "no_free_slot"


def test_a_slurm_that_does_not_tell_which_jobs_are_over_costs_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails() -> frozenset[str]:
        raise UnavailableError("Socket timed out")

    place = Place()
    _submit(place)
    before = place.watch.picture
    monkeypatch.setattr(place.view, "decisions_over", fails)
    asyncio.run(place.watch.refresh())
    assert place.watch.picture is not before
    assert place.decide(partition="batch").reason == "no_free_slot"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 64), st.floats(0, 100))), st.floats(0, 200))
def test_what_is_promised_is_what_was_given_within_the_time_to_live(
    given_away: list[tuple[str, int, float]], asked_at: float
) -> None:
    promises = Promises(30)
    for number, (site, cpus, made_at) in enumerate(sorted(given_away, key=lambda promise: promise[2])):
        promises.add(_promise(str(number), made_at, cpus, site=site))
    alive = {
        site: sum(cpus for name, cpus, made_at in given_away if name == site and made_at + 30 > asked_at)
        for site in "ab"
    }
    for site in "ab":
        assert promises.unsettled((), asked_at).get(site, Amount()).cpus == alive[site]
    promises.settle((), asked_at)
    for site in "ab":
        assert promises.by_site.get(site, Amount()).cpus == alive[site]
