"""Letting more in by moving others moved_on, against exhaustive search: from any flow the counts end at the most."""

from __future__ import annotations

import numpy as np
from tests.unit.placement.test_transport import exhaustive, is_lawful, tiny, value_of

from fedgpu_operator.placement.flow import Transport
from fedgpu_operator.placement.flow.exact import Rearrangement, groups_of
from fedgpu_operator.placement.flow.network import FlowNetwork, worth
from fedgpu_operator.placement.problem import IntVector

SEEDS = 400


def net_of(t: Transport) -> FlowNetwork:
    return FlowNetwork(t.demand, t.supply, *groups_of(t))


def somehow(t: Transport, seed: int) -> IntVector:
    """A lawful assignment (C, O) without rhyme or reason: pair after pair takes what chance and room give it."""
    rng = np.random.default_rng(seed)
    units = np.zeros((len(t.demand), len(t.supply)), dtype=np.int64)
    for pair in rng.permutation(units.size).tolist():
        row, offer = divmod(pair, len(t.supply))
        units[row, offer] = rng.integers(0, 3)
        while not is_lawful(t, units):
            units[row, offer] -= 1
    return units


def rearrangement_of(t: Transport, units: IntVector) -> Rearrangement:
    rows, offers = np.nonzero(units)
    return Rearrangement(t, net_of(t), rows, offers, units[rows, offers])


def as_table(t: Transport, moved_on: Rearrangement) -> IntVector:
    units = np.zeros((len(t.demand), len(t.supply)), dtype=np.int64)
    np.add.at(units, (moved_on.rows, moved_on.offers), moved_on.units)
    return units


def counts(t: Transport, units: IntVector) -> tuple[int, ...]:
    """Units by priority, the highest first, as negative numbers."""
    return value_of(t, units)[:-2]


def test_from_any_flow_the_most_of_every_priority_in_turn_are_let_in() -> None:
    moved = 0
    for seed in range(SEEDS):
        market = tiny(seed)
        before = somehow(market, seed)
        moved_on = rearrangement_of(market, before)
        assert moved_on.let_in(200), f"seed {seed}"
        after = as_table(market, moved_on)
        best = exhaustive(market)[:-2]
        assert is_lawful(market, after), f"seed {seed}"
        assert counts(market, after) == best, f"seed {seed}"
        moved += bool((after < before).any())
        # No chain is left, and none is taken where none is allowed; else the answer is no.
        assert rearrangement_of(market, after).let_in(0), f"seed {seed}"
        assert rearrangement_of(market, before).let_in(0) == (counts(market, before) == best), f"seed {seed}"
    assert moved > SEEDS // 50, "hardly anybody ever had to move: the worlds are too easy"


def test_the_offers_behind_which_units_wait_are_a_cut() -> None:
    waited = 0
    for seed in range(SEEDS):
        market = tiny(seed)
        moved_on = rearrangement_of(market, somehow(market, seed))
        assert moved_on.let_in(200)
        placed = as_table(market, moved_on)
        waits = market.demand - placed.sum(axis=1)
        lawful = np.stack(market.eligible)
        assert not (lawful[waits > 0] & ~moved_on.full).any(), f"seed {seed}: somebody waits beside an open door"
        elsewhere = (lawful & ~moved_on.full).any(axis=1)
        most = int(market.demand[elsewhere].sum()) + worth(net_of(market), moved_on.full.astype(np.int64))
        assert placed.sum() <= most, f"seed {seed}"
        if waits.any():
            waited += 1
            assert placed.sum() == most, f"seed {seed}"
    assert waited > SEEDS // 8, "nobody ever waits: the worlds are too easy"
