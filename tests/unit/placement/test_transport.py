"""The exact flow against exhaustive search: counts, cost, ties, prices and proof, on thousands of tiny markets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fedgpu_operator.placement.flow import Flow, Transport, exact, transport
from fedgpu_operator.placement.flow.network import product as scalar
from fedgpu_operator.placement.flow.transport import solved
from fedgpu_operator.placement.problem import UNBOUNDED, IntVector

TINY = 320


def tiny(seed: int) -> Transport:
    """A market small enough to try every assignment: up to 3 classes, 3 offers, 2 providers, 3 priorities."""
    rng = np.random.default_rng(seed)
    classes, offers, providers = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 3))
    return Transport(
        demand=rng.integers(0, 3, classes),
        priority=tuple(rng.integers(0, 3, classes).tolist()),
        seconds=rng.integers(0, 4, classes),
        price=[rng.integers(0, 5, offers) for _ in range(classes)],
        eligible=[rng.random(offers) < 0.7 for _ in range(classes)],
        supply=rng.integers(0, 3, offers),
        provider=rng.integers(0, providers, offers),
        slots=tuple(None if rng.random() < 0.5 else int(rng.integers(0, 4)) for _ in range(providers)),
    )


def wide(seed: int, *, scarcity: float = 0.9, levels: int = 2, zones: int = 12) -> Transport:
    """A market too large to look at all of its pairs at once: 150 classes, 1,200 offers."""
    rng = np.random.default_rng(seed)
    classes, offers, providers = 150, 1_200, 300
    provider = np.sort(rng.integers(0, providers, offers))
    zone = rng.integers(0, zones, providers)[provider]
    base = rng.integers(100, 600, offers) * 10_000
    masks = [np.isin(zone, rng.permutation(zones)[: zones // 2]) for _ in range(40)]
    rows = [base + rng.integers(0, 200, zones)[zone] * 500 for _ in range(60)]
    demand = rng.integers(1, 200, classes)
    supply = rng.integers(0, 30, offers)
    supply = supply * int(demand.sum() / scarcity) // int(supply.sum())
    held = np.bincount(provider, supply, providers)
    return Transport(
        demand=demand,
        priority=tuple(rng.integers(0, levels, classes).tolist()),
        seconds=rng.choice([600, 3_600, 86_400], classes),
        price=[rows[each] for each in rng.integers(0, len(rows), classes)],
        eligible=[masks[each] for each in rng.integers(0, len(masks), classes)],
        supply=supply,
        provider=provider,
        slots=tuple(None if rng.random() < 0.6 else int(each) for each in held * rng.uniform(0.5, 1.1, providers)),
    )


def value_of(t: Transport, units: IntVector) -> tuple[int, ...]:
    """What is compared of an assignment (C, O): units by priority, cost, sum of offer indices; less is better."""
    levels = sorted(set(t.priority), reverse=True)
    served = [-sum(int(row.sum()) for row, each in zip(units, t.priority, strict=True) if each == p) for p in levels]
    cost = sum(
        int(row @ price) * seconds for row, price, seconds in zip(units, t.price, t.seconds.tolist(), strict=True)
    )
    return (*served, cost, int(units.sum(axis=0) @ np.arange(len(t.supply))))


def is_lawful(t: Transport, units: IntVector) -> bool:
    """Nothing where it may not go, nothing sold twice, nobody served beyond what was asked."""
    by_provider = np.bincount(t.provider, units.sum(axis=0), len(t.slots))
    return bool(
        (units >= 0).all()
        and not units[~np.stack(t.eligible)].any()
        and (units.sum(axis=1) <= t.demand).all()
        and (units.sum(axis=0) <= t.supply).all()
        and all(slots is None or sold <= slots for slots, sold in zip(t.slots, by_provider, strict=True))
    )


def exhaustive(t: Transport) -> tuple[int, ...]:
    """The best value of all lawful assignments."""
    shape = (len(t.demand), len(t.supply))
    rows = [
        [row for row in product(range(int(wanted) + 1), repeat=shape[1]) if sum(row) <= wanted] for wanted in t.demand
    ]
    every = (np.array(rows) for rows in product(*rows))
    return min(value_of(t, units) for units in every if is_lawful(t, units))


def table(t: Transport, flow: Flow) -> IntVector:
    """The flow as an assignment (C, O)."""
    units = np.zeros((len(t.demand), len(t.supply)), dtype=np.int64)
    units[flow.rows, flow.offers] = flow.units
    assert units.sum() == flow.units.sum(), "a pair is listed twice"
    return units


@pytest.fixture
def all_pairs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Transport], Flow]:
    """The same solve with all pairs in the network from the start."""

    def solve(t: Transport) -> Flow:
        with monkeypatch.context() as patch:
            patch.setattr(exact, "ALL_PAIRS", 10**9)
            return solved(t, 10**9, clearing=True, first_only=False)

    return solve


@pytest.mark.parametrize("block", range(4))
def test_nothing_better_exists(block: int) -> None:
    for seed in range(block * TINY // 4, (block + 1) * TINY // 4):
        market = tiny(seed)
        flow = transport(market)
        units = table(market, flow)
        assert is_lawful(market, units), f"seed {seed}"
        assert value_of(market, units) == exhaustive(market), f"seed {seed}"
        assert flow.cost == value_of(market, units)[-2], f"seed {seed}"
        assert flow.certified, f"seed {seed}"
        assert (flow.floor, flow.most, flow.placed) == (flow.cost, units.sum(), units.sum()), f"seed {seed}"


def with_twin(t: Transport, offer: int) -> Transport:
    """One more unit of an offer, with a lease slot of its own."""
    return replace(
        t,
        price=[np.append(each, each[offer]) for each in t.price],
        eligible=[np.append(each, each[offer]) for each in t.eligible],
        supply=np.append(t.supply, 1),
        provider=np.append(t.provider, len(t.slots)),
        slots=(*t.slots, None),
    )


def with_squatter(t: Transport, offer: int) -> Transport:
    """Somebody of the highest priority who takes one unit of the offer and pays nothing."""
    offers = len(t.supply)
    return replace(
        t,
        demand=np.append(t.demand, 1),
        priority=(*t.priority, max(t.priority) + 1),
        seconds=np.append(t.seconds, 0),
        price=[*t.price, np.zeros(offers, dtype=np.int64)],
        eligible=[*t.eligible, np.arange(offers) == offer],
    )


def at_equal_counts(t: Transport, units: IntVector) -> Transport:
    """A market in which exactly the served units ask: more capacity can lower their cost, never raise their number."""
    return replace(t, demand=units.sum(axis=1))


def test_clearing_prices_are_what_one_unit_more_or_less_changes() -> None:
    bounded = unbounded = 0
    for seed in range(TINY // 2):
        market = tiny(seed)
        if len(set(market.priority)) < len(market.priority):
            # Equal counts per class are equal counts per level only where every class is a level.
            market = replace(market, priority=tuple(range(len(market.priority))))
        flow = transport(market, clearing=True)
        assert flow.clearing is not None
        units = table(market, flow)
        for offer in np.flatnonzero(market.supply).tolist():
            if market.slots[int(market.provider[offer])] == 0:
                continue
            more = transport(at_equal_counts(with_twin(market, offer), units))
            assert flow.clearing.low[offer] == flow.cost - more.cost, f"seed {seed}"
            squatted = transport(with_squatter(market, offer))
            fewer = squatted.placed - 1 < flow.placed or served(market, squatted) != served(market, flow)
            if fewer:
                assert flow.clearing.high[offer] == UNBOUNDED, f"seed {seed}"
                unbounded += 1
            else:
                assert flow.clearing.high[offer] == squatted.cost - flow.cost, f"seed {seed}"
                bounded += 1
            high = flow.clearing.high[offer]
            assert flow.clearing.low[offer] <= flow.prices[offer], f"seed {seed}"
            assert high == UNBOUNDED or flow.prices[offer] <= high, f"seed {seed}"
    assert min(bounded, unbounded) > 50, "the markets show only one side"


def served(t: Transport, flow: Flow) -> list[int]:
    """Units per class of the market, (C,)."""
    units = np.bincount(flow.rows, flow.units, len(t.demand) + 1).astype(int)
    return [int(each) for each in units[: len(t.demand)]]


@pytest.mark.parametrize("scarcity", [0.5, 0.97, 1.4])
@pytest.mark.parametrize("levels", [1, 3])
def test_pairs_priced_in_end_where_all_pairs_do(
    scarcity: float, levels: int, all_pairs: Callable[[Transport], Flow]
) -> None:
    market = wide(3, scarcity=scarcity, levels=levels)
    flow, whole = transport(market, clearing=True), all_pairs(market)
    assert whole.rounds == 2, "the other solve did not look at all pairs from the start"
    assert is_lawful(market, table(market, flow))
    assert flow.certified
    assert whole.certified
    assert value_of(market, table(market, flow))[:-1] == value_of(market, table(market, whole))[:-1]
    assert flow.clearing is not None
    assert whole.clearing is not None
    assert np.array_equal(flow.clearing.low, whole.clearing.low)
    assert np.array_equal(flow.clearing.high, whole.clearing.high)


@pytest.mark.parametrize("scarcity", [0.5, 0.97, 1.4])
def test_a_first_answer_is_lawful_and_its_bounds_hold(scarcity: float) -> None:
    market = wide(5, scarcity=scarcity)
    first, best = transport(market, first_only=True), transport(market)
    units = table(market, first)
    assert is_lawful(market, units)
    assert first.placed == units.sum()
    assert first.placed <= best.placed <= first.most
    assert first.rounds < best.rounds
    # The floor is about as many units of each level as the first answer placed, which costs at least that.
    limited = transport(at_equal_counts(market, units))
    assert limited.placed == first.placed
    assert 0 < first.floor <= limited.cost <= first.cost


def test_the_order_of_classes_and_offers_changes_no_value() -> None:
    for seed in range(TINY // 4):
        market, rng = tiny(seed), np.random.default_rng(seed)
        rows, offers = rng.permutation(len(market.demand)), rng.permutation(len(market.supply))
        shuffled = Transport(
            demand=market.demand[rows],
            priority=tuple(market.priority[row] for row in rows),
            seconds=market.seconds[rows],
            price=[market.price[row][offers] for row in rows],
            eligible=[market.eligible[row][offers] for row in rows],
            supply=market.supply[offers],
            provider=market.provider[offers],
            slots=market.slots,
        )
        one, other = transport(market, clearing=True), transport(shuffled, clearing=True)
        assert (one.placed, one.cost) == (other.placed, other.cost), f"seed {seed}"
        assert one.clearing is not None
        assert other.clearing is not None
        assert np.array_equal(one.clearing.low[offers], other.clearing.low), f"seed {seed}"
        assert np.array_equal(one.clearing.high[offers], other.clearing.high), f"seed {seed}"


def test_equal_input_gives_the_equal_flow() -> None:
    one, other = transport(wide(7)), transport(wide(7))
    assert np.array_equal(table(wide(7), one), table(wide(7), other))
    assert np.array_equal(one.prices, other.prices)


def test_classes_that_differ_in_nothing_are_served_like_one() -> None:
    for seed in range(TINY // 4):
        market, rng = tiny(seed), np.random.default_rng(seed)
        pick = rng.integers(0, len(market.demand), 6)
        many = replace(
            market,
            demand=rng.integers(0, 4, 6),
            priority=tuple(market.priority[each] for each in pick),
            seconds=market.seconds[pick],
            price=[market.price[each] for each in pick],
            eligible=[market.eligible[each] for each in pick],
        )
        apart = replace(many, price=[each.copy() for each in many.price])
        flow = transport(many)
        assert is_lawful(many, table(many, flow)), f"seed {seed}"
        assert value_of(many, table(many, flow)) == value_of(apart, table(apart, transport(apart))), f"seed {seed}"


def test_shards_give_what_the_whole_gives() -> None:
    split = 0
    for seed in range(TINY // 2):
        market = tiny(seed)
        other = tiny(seed + 10_000)
        both = beside(market, other)
        whole = solved(both, 10**9, clearing=True, first_only=False)
        parts = solved(both, 1, clearing=True, first_only=False)
        split += parts.rounds > whole.rounds
        assert value_of(both, table(both, parts)) == value_of(both, table(both, whole)), f"seed {seed}"
        assert (parts.certified, parts.floor, parts.most) == (True, whole.floor, whole.most), f"seed {seed}"
        assert parts.clearing is not None
        assert whole.clearing is not None
        assert np.array_equal(parts.clearing.low, whole.clearing.low), f"seed {seed}"
        assert np.array_equal(parts.clearing.high, whole.clearing.high), f"seed {seed}"
    assert split > TINY // 8, "the markets hardly ever fell apart"


def beside(one: Transport, other: Transport) -> Transport:
    """Two markets that share nothing, as one."""
    left, right = len(one.supply), len(other.supply)
    return Transport(
        demand=np.append(one.demand, other.demand),
        priority=(*one.priority, *other.priority),
        seconds=np.append(one.seconds, other.seconds),
        price=[np.append(each, np.zeros(right, np.int64)) for each in one.price]
        + [np.append(np.zeros(left, np.int64), each) for each in other.price],
        eligible=[np.append(each, np.zeros(right, np.bool_)) for each in one.eligible]
        + [np.append(np.zeros(left, np.bool_), each) for each in other.eligible],
        supply=np.append(one.supply, other.supply),
        provider=np.append(one.provider, other.provider + len(one.slots)),
        slots=(*one.slots, *other.slots),
    )


def test_absurd_costs_stay_the_last_choice_and_are_not_called_proven() -> None:
    year, cheap = 31_536_000, 1_000_001
    # The first whose cost is far beyond 64 bits and would come out negative in them.
    dear = next(each for each in range(10**15, 10**15 + 99) if each * (year + 1) % 2**64 >= 2**63)
    market = Transport(
        demand=np.array([1, 1]),
        priority=(0, 0),
        seconds=np.array([year + 1, year]),
        price=[np.array([dear, cheap + 1, cheap])] * 2,
        eligible=[np.array([True, True, True])] * 2,
        supply=np.array([5, 1, 1]),
        provider=np.array([0, 0, 0]),
        slots=(None,),
    )
    flow = transport(market)
    assert table(market, flow).tolist() == [[0, 0, 1], [0, 1, 0]]
    assert flow.certified
    forced = transport(replace(market, demand=np.array([2, 1])))
    assert table(market, forced).sum(axis=0).tolist() == [1, 1, 1]
    assert forced.cost > dear * year
    assert forced.floor <= forced.cost
    assert forced.certified == (forced.floor == forced.cost)


def test_nobody_and_nothing() -> None:
    none = np.zeros(0, dtype=np.int64)
    empty = Transport(none, (), none, [], [], none, none, ())
    market = tiny(1)
    nobody = replace(market, demand=np.zeros_like(market.demand))
    nothing = replace(market, supply=np.zeros_like(market.supply))
    for each in (empty, nobody, nothing):
        flow = transport(each, clearing=True)
        assert (flow.placed, flow.most, flow.cost, flow.floor, flow.certified) == (0, 0, 0, 0, True)


def test_prices_beyond_64_bits_are_the_most_that_these_hold() -> None:
    month = 30 * 86_400
    dear = Transport(
        demand=np.array([2]),
        priority=(0,),
        seconds=np.array([month]),
        price=[np.array([1, 10**13])],
        eligible=[np.ones(2, dtype=np.bool_)],
        supply=np.array([1, 2]),
        provider=np.array([0, 1]),
        slots=(None, None),
    )
    flow = transport(dear, clearing=True)
    most = (2**63 - 1) // month * month
    assert flow.certified
    assert flow.cost == (10**13 + 1) * month
    assert flow.prices.tolist() == [most, 0]
    assert flow.clearing is not None
    assert (flow.clearing.low.tolist(), flow.clearing.high.tolist()) == ([most, 0], [most, 0])


@pytest.mark.parametrize("seed", range(3))
def test_where_a_search_begins_does_not_matter_to_what_is_proven(seed: int) -> None:
    market = wide(seed)
    plain = transport(market)
    wild = np.random.default_rng(seed).integers(0, 2**40, len(market.supply))
    for hint in (plain.prices, wild, np.zeros_like(wild), np.full_like(wild, 2**63 - 1)):
        hinted = transport(replace(market, hint=hint))
        assert hinted.certified
        assert value_of(market, table(market, hinted)) == value_of(market, table(market, plain))
        early = transport(replace(market, hint=hint), first_only=True)
        assert is_lawful(market, table(market, early))
        assert early.floor <= early.cost
        assert early.most >= plain.placed


@pytest.mark.parametrize("bits", [1, 10, 28, 31, 45, 61])
def test_sums_of_money_are_exact_however_large(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for length in (0, 1, 31, 1_000):
        left, right = (rng.integers(-(2**bits), 2**bits, length) for _ in range(2))
        assert scalar(left, right) == sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))
