"""Letting more in by moving others aside, against exhaustive search: from any flow the counts end at the most."""

from __future__ import annotations

import numpy as np
from tests.unit.placement.test_transport import exhaustive, is_lawful, tiny, value_of

from fedgpu_operator.placement.flow import Transport
from fedgpu_operator.placement.flow.exact import Aside, groups_of
from fedgpu_operator.placement.flow.market import Network, worth
from fedgpu_operator.placement.problem import IntVector

SEEDS = 400


def net_of(t: Transport) -> Network:
    return Network(t.demand, t.supply, *groups_of(t))


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


def aside_of(t: Transport, units: IntVector) -> Aside:
    rows, offers = np.nonzero(units)
    return Aside(t, net_of(t), rows, offers, units[rows, offers])


def as_table(t: Transport, aside: Aside) -> IntVector:
    units = np.zeros((len(t.demand), len(t.supply)), dtype=np.int64)
    np.add.at(units, (aside.rows, aside.offers), aside.units)
    return units


def counts(t: Transport, units: IntVector) -> tuple[int, ...]:
    """Units by priority, the highest first, as negative numbers."""
    return value_of(t, units)[:-2]


def test_from_any_flow_the_most_of_every_priority_in_turn_are_let_in() -> None:
    moved = 0
    for seed in range(SEEDS):
        market = tiny(seed)
        before = somehow(market, seed)
        aside = aside_of(market, before)
        assert aside.let_in(), f"seed {seed}"
        after = as_table(market, aside)
        best = exhaustive(market)[:-2]
        assert is_lawful(market, after), f"seed {seed}"
        assert counts(market, after) == best, f"seed {seed}"
        moved += bool((after < before).any())
        # No chain is left, and none is taken where none is allowed; else the answer is no.
        assert aside_of(market, after).let_in(0), f"seed {seed}"
        assert aside_of(market, before).let_in(0) == (counts(market, before) == best), f"seed {seed}"
    assert moved > SEEDS // 50, "hardly anybody ever had to move: the worlds are too easy"


def test_the_offers_behind_which_units_wait_are_a_cut() -> None:
    waited = 0
    for seed in range(SEEDS):
        market = tiny(seed)
        aside = aside_of(market, somehow(market, seed))
        assert aside.let_in()
        placed = as_table(market, aside)
        waits = market.demand - placed.sum(axis=1)
        lawful = np.stack(market.eligible)
        assert not (lawful[waits > 0] & ~aside.full).any(), f"seed {seed}: somebody waits beside an open door"
        elsewhere = (lawful & ~aside.full).any(axis=1)
        most = int(market.demand[elsewhere].sum()) + worth(net_of(market), aside.full.astype(np.int64))
        assert placed.sum() <= most, f"seed {seed}"
        if waits.any():
            waited += 1
            assert placed.sum() == most, f"seed {seed}"
    assert waited > SEEDS // 8, "nobody ever waits: the worlds are too easy"
