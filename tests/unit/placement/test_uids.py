"""Uids that go and come, against plain sets."""

from __future__ import annotations

from random import Random

import pytest

from fedgpu_operator.placement.table import Uids


@pytest.mark.parametrize("seed", range(30))
def test_they_are_what_a_set_would_hold_in_order_whenever_somebody_looks(seed: int) -> None:
    rng = Random(seed)
    names = [f"{rng.getrandbits(32):08x}" for _ in range(rng.choice((1, 5, 60)))]
    held, uids = set(names), Uids(list(names))
    if rng.random() < 0.5:
        uids.prepare()
    for step in range(12):
        gone = rng.sample(sorted(held), rng.randint(0, min(3, len(held))))
        come = [f"{step}-{i}-{rng.getrandbits(16):04x}" for i in range(rng.randint(0, 3))]
        # Some come back: at once, or after a while.
        come += [uid for uid in names if (uid not in held or uid in gone) and rng.random() < 0.2]
        before, was = uids, sorted(held)
        uids = uids.changed(gone, come)
        held = held.difference(gone).union(come)
        assert len(uids) == len(held)
        if held and rng.random() < 0.7:
            assert uids.first == min(held)
        if rng.random() < 0.4:
            assert list(uids) == sorted(held)
        assert len(before) == len(was)
        assert rng.random() < 0.5 or list(before) == was
    assert list(uids) == sorted(held)


@pytest.mark.parametrize("gone", [["d"], ["a", "a"], ["a", "gone"], ["new", "new"]])
def test_what_is_not_there_cannot_go_and_the_first_such_is_named(gone: list[str]) -> None:
    uids = Uids(["b", "a", "gone"]).changed(["gone"], ["new"])
    with pytest.raises(ValueError, match=f"job '{gone[-1]}' is not among those of the last pass"):
        uids.changed(gone, [])
    assert list(uids) == ["a", "b", "new"]


def test_of_none_there_is_no_first() -> None:
    with pytest.raises(ValueError, match="empty"):
        _ = Uids(["a"]).changed(["a"], []).first
