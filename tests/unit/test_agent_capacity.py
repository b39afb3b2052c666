"""What is left of a site's slots once its runs have their places."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from overspill_agent.capacity import Capacity, Holding, Slot, grouped, has_room, largest, left
from overspill_agent.runs import Resources

SMALL, LARGE = Resources(4, 4096), Resources(16, 65536)
SITE = Capacity((Slot("a", SMALL, SMALL), Slot("b", LARGE, LARGE)))


def _left(*holdings: Holding) -> dict[str, int]:
    return {slot.name: slot.usable.cpus for slot in left(SITE, holdings)}


def test_a_run_takes_from_its_own_machine_or_from_the_tightest_that_holds_it() -> None:
    assert _left(Holding(Resources(2, 100), machine="b")) == {"a": 4, "b": 14}
    assert _left(Holding(Resources(2, 100))) == {"a": 2, "b": 16}
    assert _left(Holding(Resources(8, 100)), Holding(Resources(4, 100))) == {"a": 0, "b": 8}


def test_free_pieces_do_not_add_up_to_a_slot() -> None:
    slots = left(SITE, [Holding(Resources(14, 100))])
    assert not has_room(slots, Holding(Resources(5, 100)))
    assert has_room(slots, Holding(Resources(4, 100)))
    assert largest(slots) == SMALL


def test_what_fits_nowhere_waits_and_takes_nothing() -> None:
    assert _left(Holding(Resources(64, 100))) == {"a": 4, "b": 16}
    assert not SITE.can_ever_hold(Holding(Resources(17, 1)))


def test_what_others_use_is_no_room_but_may_become_some() -> None:
    shared = Capacity((Slot("a", LARGE, SMALL),))
    assert not has_room(left(shared, []), Holding(Resources(8, 1)))
    assert shared.can_ever_hold(Holding(Resources(8, 1)))


def test_gpus_of_a_type_are_found_where_they_are() -> None:
    one = Resources(1, 1, 1)
    site = Capacity((Slot("a", one, one, "a100"), Slot("b", one, one, "t4")))
    assert {slot.name: slot.usable.gpus for slot in left(site, [Holding(one, "t4")])} == {"a": 1, "b": 0}
    assert not site.can_ever_hold(Holding(one, "h100"))
    assert site.can_ever_hold(Holding(one))


def test_slots_that_are_alike_are_counted_largest_first() -> None:
    slots = [Slot("a", SMALL, SMALL), Slot("b", LARGE, LARGE), Slot("c", SMALL, SMALL)]
    assert [(count, slot.size) for count, slot in grouped(slots)] == [(1, LARGE), (2, SMALL)]


def test_a_run_that_wants_gpus_of_any_type_leaves_those_that_another_needs() -> None:
    one = Resources(1, 1, 1)
    site = Capacity((Slot("a", one, one, "a100"), Slot("b", one, one, "t4")))
    assert [slot.usable.gpus for slot in left(site, [Holding(one), Holding(one, "a100")])] == [0, 0]
    assert not has_room(left(site, [Holding(one, "a100")]), Holding(one, "a100"))


_SIZES = st.builds(Resources, cpus=st.integers(1, 4), memory_mib=st.integers(0, 3), gpus=st.integers(0, 1))
_ROOMS = st.builds(Resources, cpus=st.integers(0, 12), memory_mib=st.integers(0, 12), gpus=st.integers(0, 3))


@given(
    rooms=st.lists(_ROOMS, max_size=4),
    holdings=st.lists(st.builds(Holding, _SIZES, machine=st.sampled_from(("", "m0", "gone"))), max_size=12),
)
def test_runs_that_are_alike_are_placed_as_one_after_another(
    rooms: Sequence[Resources], holdings: Sequence[Holding]
) -> None:
    slots = tuple(Slot(f"m{number}", room, room) for number, room in enumerate(rooms))
    names = {slot.name for slot in slots}
    one_by_one = Capacity(slots)
    placed_first = sorted(holdings, key=lambda holding: (holding.machine in names, _order(holding)), reverse=True)
    for holding in placed_first:
        one_by_one = Capacity(left(one_by_one, [holding]))
    at_once = left(Capacity(slots), holdings)
    assert sorted(map(_free, at_once)) == sorted(map(_free, one_by_one.slots))


def _order(holding: Holding) -> tuple[int, int, int]:
    return holding.resources.gpus, holding.resources.cpus, holding.resources.memory_mib


def _free(slot: Slot) -> tuple[int, int, int]:
    return slot.usable.gpus, slot.usable.cpus, slot.usable.memory_mib
