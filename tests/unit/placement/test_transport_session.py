"""A market that changes step by step: what the session answers stays lawful, bounded and close to the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.placement.test_transport import is_lawful, table, tiny, value_of, wide

from fedgpu_operator.placement.flow import Change, Flow, Session, Transport, transport

LOOSE = 1e9
"""A gap at which nothing but a waiting unit of a higher priority makes an update solve fully."""


def same(t: Transport) -> Change:
    """Every class and offer is where it was, as it was."""
    return Change(np.arange(len(t.demand)), np.arange(len(t.supply)), np.zeros(len(t.supply), dtype=np.bool_))


def changed(t: Transport, rng: np.random.Generator, share: float) -> tuple[Transport, Change]:
    """A share of offers with another price, eligibility and supply, of classes with other demand; some come and go."""
    offers_were = np.flatnonzero(rng.random(len(t.supply)) >= share / 4)
    rows_were = np.flatnonzero(rng.random(len(t.demand)) >= share / 4)
    if not len(offers_were) or not len(rows_were):
        return t, same(t)
    offers_were = np.append(offers_were, -1)
    is_new = rng.random(len(rows_were)) < share / 4
    fresh = (rng.random(len(offers_were)) < share) | (offers_were < 0)
    shift = np.where(fresh, rng.integers(0, 3, len(fresh)), 0)
    flip = fresh & (rng.random(len(fresh)) < 0.5)
    prices = {id(each): each[offers_were] + shift for each in t.price}
    masks = {id(each): each[offers_were] ^ flip for each in t.eligible}
    supply = t.supply[offers_were]
    supply = np.where(rng.random(len(supply)) < share, np.maximum(0, supply + rng.integers(-2, 3, len(supply))), supply)
    demand = t.demand[rows_were]
    demand = np.where(rng.random(len(demand)) < share, np.maximum(0, demand + rng.integers(-2, 3, len(demand))), demand)
    after = Transport(
        demand=demand,
        priority=tuple(t.priority[row] for row in rows_were.tolist()),
        seconds=t.seconds[rows_were],
        price=[prices[id(t.price[row])] for row in rows_were.tolist()],
        eligible=[masks[id(t.eligible[row])] for row in rows_were.tolist()],
        supply=supply,
        provider=t.provider[offers_were],
        slots=tuple(None if slots is None else max(0, slots + int(rng.integers(-1, 2))) for slots in t.slots),
    )
    return after, Change(np.where(is_new, -1, rows_were), offers_were, fresh)


def placed_by_level(t: Transport, flow: Flow) -> dict[int, int]:
    """Units that are placed, by priority."""
    total = dict.fromkeys(t.priority, 0)
    for row, units in zip(flow.rows.tolist(), flow.units.tolist(), strict=True):
        total[t.priority[row]] += units
    return total


@pytest.mark.parametrize("size", ["tiny", "wide"])
def test_every_answer_is_lawful_and_its_bounds_hold(size: str) -> None:
    kept = 0
    for seed in range(100 if size == "tiny" else 1):
        rng = np.random.default_rng(seed)
        market = tiny(seed) if size == "tiny" else wide(seed, scarcity=0.8)
        session = Session(LOOSE)
        session.solve(market)
        for step in range(4):
            market, change = changed(market, rng, 0.4 if size == "tiny" else 0.02)
            flow, best = session.update(market, change), transport(market)
            units = table(market, flow)
            where = f"seed {seed} step {step}"
            assert is_lawful(market, units), where
            assert flow.cost == value_of(market, units)[-2], where
            assert flow.placed == units.sum() <= best.placed <= flow.most, where
            counts, optimal = placed_by_level(market, flow), placed_by_level(market, best)
            last = min(market.priority)
            assert {p: n for p, n in counts.items() if p != last} == {p: n for p, n in optimal.items() if p != last}, (
                where
            )
            equal = transport(replace(market, demand=units.sum(axis=1)))
            assert flow.floor <= equal.cost <= flow.cost, where
            if flow.certified:
                assert value_of(market, units)[:-1] == value_of(market, table(market, best))[:-1], where
            kept += flow.rounds == 1
    assert kept >= 4, "the session hardly ever went on from what it had"


def test_an_update_whose_bound_is_too_loose_solves_fully() -> None:
    rng = np.random.default_rng(4)
    market = wide(4)
    strict, loose = Session(0.0), Session(LOOSE)
    strict.solve(market)
    loose.solve(market)
    market, change = changed(market, rng, 0.05)
    exact, rough = strict.update(market, change), loose.update(market, change)
    best = transport(market)
    assert exact.certified
    assert (exact.placed, exact.cost) == (best.placed, best.cost)
    assert (rough.placed, rough.cost) != (best.placed, best.cost), "the change was too small to prove anything"


@pytest.mark.parametrize("scarcity", [0.7, 1.2])
def test_one_percent_of_change_costs_a_thousandth_at_most(scarcity: float) -> None:
    rng = np.random.default_rng(6)
    market = wide(6, scarcity=scarcity, levels=1)
    session = Session()
    session.solve(market)
    for _ in range(3):
        market, change = changed(market, rng, 0.01)
        flow, best = session.update(market, change), transport(market)
        assert flow.placed >= best.placed * 0.999
        assert flow.cost - flow.floor <= flow.cost * 0.001
        if flow.placed == best.placed:
            assert flow.cost <= best.cost * 1.001


def test_no_higher_priority_waits_for_what_a_lower_one_holds() -> None:
    price, anywhere = np.array([3, 5]), np.ones(2, dtype=np.bool_)
    before = Transport(
        demand=np.array([4]),
        priority=(0,),
        seconds=np.array([60]),
        price=[price],
        eligible=[anywhere],
        supply=np.array([2, 2]),
        provider=np.array([0, 1]),
        slots=(None, None),
    )
    session = Session(LOOSE)
    session.solve(before)
    after = replace(
        before,
        demand=np.array([4, 3]),
        priority=(0, 9),
        seconds=np.array([60, 60]),
        price=[price] * 2,
        eligible=[anywhere] * 2,
    )
    flow = session.update(after, replace(same(before), rows_were=np.array([0, -1])))
    assert table(after, flow).sum(axis=1).tolist() == [1, 3]


def test_nothing_changed_changes_nothing() -> None:
    market = wide(8)
    session = Session()
    first, again = session.solve(market), session.update(market, same(market))
    assert np.array_equal(table(market, first), table(market, again))
    assert (again.cost, again.floor, again.placed) == (first.cost, first.cost, first.placed)


def zones(demand: list[int], priority: tuple[int, ...], where: list[str], supply: dict[str, int]) -> Transport:
    """A market whose classes are bound to the offers named, all at one price."""
    return Transport(
        demand=np.array(demand),
        priority=priority,
        seconds=np.full(len(demand), 60),
        price=[np.full(len(supply), 10)] * len(demand),
        eligible=[np.array([name in each.split() for name in supply]) for each in where],
        supply=np.array(list(supply.values())),
        provider=np.arange(len(supply)),
        slots=(None,) * len(supply),
    )


def test_who_comes_with_a_higher_priority_does_not_wait_because_others_of_it_did() -> None:
    supply = {"DE": 5_000, "FR": 2, "IT": 2}
    session = Session()
    session.solve(zones([5_002, 4], (0, 100), ["DE IT", "FR"], supply))
    after = zones([5_002, 2, 2], (0, 100, 100), ["DE IT", "FR", "IT"], supply)
    flow = session.update(after, replace(same(after), rows_were=np.array([0, 1, -1])))
    assert placed_by_level(after, flow) == placed_by_level(after, transport(after)) == {0: 5_000, 100: 4}


@pytest.mark.parametrize("closed", ["supply", "slots"])
def test_an_offer_that_was_full_counts_in_the_bound_once_it_has_room(closed: str) -> None:
    before = Transport(
        demand=np.array([1]),
        priority=(0,),
        seconds=np.array([60]),
        price=[np.array([10, 1])],
        eligible=[np.ones(2, dtype=np.bool_)],
        supply=np.array([1, 0 if closed == "supply" else 1]),
        provider=np.array([0, 1]),
        slots=(None, 0 if closed == "slots" else None),
    )
    session = Session()
    assert session.solve(before).cost == 600
    after = replace(before, supply=np.array([1, 1]), slots=(None, None))
    assert session.update(after, same(after)).cost == 60


@pytest.mark.parametrize("price", [10**10, 7 * 10**12, 4 * 10**15, 2**62, 2**63 - 1])
def test_one_offer_of_any_price_ends_nothing(price: int) -> None:
    market = zones([3, 3, 4], (0, 9, 0), ["A B", "B", "B C"], {"A": 5, "B": 5, "C": 5})
    market = replace(market, seconds=np.full(3, 30 * 86_400))
    session = Session()
    session.solve(market)
    dear = np.array([10, price, 10])
    after = replace(market, price=[dear] * 3, demand=np.array([4, 5, 4]))
    touched = replace(same(after), changed=np.array([False, True, False]))
    for t in (after, after, market):
        flow, best = session.update(t, touched), transport(t)
        assert placed_by_level(t, flow) == placed_by_level(t, best)
        assert flow.floor <= best.cost <= flow.cost <= 1.001 * best.cost
        assert (flow.prices >= 0).all()


def test_a_market_that_was_empty_is_gone_on_from() -> None:
    none = np.zeros(0, dtype=np.int64)
    market = zones([3, 3], (0, 9), ["A B", "B"], {"A": 5, "B": 5})
    nobody = replace(market, demand=none, priority=(), seconds=none, price=[], eligible=[])
    session = Session()
    session.solve(nobody)
    flow = session.update(market, replace(same(market), rows_were=np.full(len(market.demand), -1)))
    assert (flow.placed, flow.cost) == (transport(market).placed, transport(market).cost)
