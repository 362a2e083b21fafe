"""Markets solved whole or brought up to date by a step: what holds stays, the rest is placed at the known prices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.flow.costs import COST_RANGE, NEVER, Costs, cut, fits, highest
from fedgpu_operator.placement.flow.exact import (
    ALL_PAIRS,
    Aside,
    Flow,
    Shard,
    Solver,
    Transport,
    groups_of,
    split,
    tied,
)
from fedgpu_operator.placement.flow.market import (
    NO_PAIRS,
    UNCAPPED,
    Arcs,
    Network,
    Pairs,
    Pricing,
    costs_of,
    filled,
    lowest,
    product,
    summed,
    units_on,
    worth,
)
from fedgpu_operator.placement.flow.start import sizes
from fedgpu_operator.placement.problem import BoolVector, Clearing, IntVector

CELLS: Final = 2**18
"""Pairs that are in memory at a time."""


class Block:
    """The pairs of all classes and these `offers` (K,), with costs in µUSD · s per hour (no last digit, no ceiling)."""

    def __init__(self, costs: Costs, offers: IntVector) -> None:
        everyone = np.arange(len(costs.price))
        self._offers = offers
        self._seconds = np.array(costs.seconds, dtype=np.int64)
        self._price: list[IntVector] = cut(costs.price, everyone, offers)
        self._eligible: list[BoolVector] = cut(costs.eligible, everyone, offers)

    @property
    def highest(self) -> int:
        """The greatest price there, eligible or not (µUSD per hour)."""
        return highest(self._price)

    def bids(self, best: IntVector) -> IntVector:
        """The least prices at which no class of these `best` (C,) finds an offer too cheap, (K,)."""
        prices = np.zeros(len(self._offers), dtype=np.int64)
        for rows, costs in self._blocks(np.flatnonzero(best < NEVER)):
            np.maximum(prices, (best[rows, None] - costs).max(axis=0, initial=0), out=prices)
        return prices

    def nearest(self, asking: IntVector, prices: IntVector, size: int) -> Pairs:
        """About the `size` pairs of each class with the least cost plus price (K,)."""
        rows: list[IntVector] = [NO_PAIRS]
        found: list[IntVector] = [NO_PAIRS]
        for part, totals in self._blocks(asking if len(prices) else NO_PAIRS):
            totals += prices
            rank = min(size, len(prices) - 1)
            near = np.minimum(np.partition(totals, rank, axis=1)[:, rank], NEVER - 1)
            at, columns = np.nonzero(totals <= near[:, None])
            # Where many are equally near, not all of them are taken.
            many = np.bincount(at, minlength=len(part)) > 2 * size
            rows.append(part[at[~many[at]]])
            found.append(columns[~many[at]])
            for i in np.flatnonzero(many).tolist():
                some = lowest(int(part[i]), totals[i], NEVER, size)
                rows.append(np.full(len(some), part[i]))
                found.append(some)
        return Pairs(NO_PAIRS, NO_PAIRS).with_(Pairs(np.concatenate(rows), self._offers[np.concatenate(found)]))

    def _blocks(self, rows: IntVector) -> Iterator[tuple[IntVector, NDArray[np.int64]]]:
        """Some of these classes at a time, and what one unit of each costs at each offer; shape (some, K)."""
        many = max(1, CELLS // max(1, len(self._offers)))
        for begin in range(0, len(rows), many):
            part = rows[begin : begin + many]
            costs = np.array([self._price[row] for row in part.tolist()]) * self._seconds[part, None]
            costs[~np.array([self._eligible[row] for row in part.tolist()])] = NEVER
            yield part, costs


ALTERNATIVES: Final = 4
"""Changed offers that a class with units to place looks at."""

SEARCHED: Final = 300
"""Classes at most for which all offers are looked at again, because their near ones are full."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What a step starts from: the market, a flow with its prices, what each class pays (C,) and its near pairs.

    No price of an offer is above `high` (µUSD per hour). Costs in µUSD · s per hour: no pair's cost plus price is below
    what its class pays, so prices bound every flow.
    """

    t: Transport
    high: int
    flow: Flow
    paid: IntVector
    near: Pairs


def updated(kept: Kept, t: Transport, rows_were: IntVector, offers_were: IntVector, changed: BoolVector) -> Kept | None:
    """The next solution; None where a full solve is the quicker way."""
    if not len(kept.paid) or not len(kept.flow.prices):
        return None
    step = _Step(kept, t, rows_were, offers_were, changed)
    if not step.fits():
        return None
    step.price_again()
    step.keep()
    step.place(step.near)
    if step.asks_further():
        step.place(step.anywhere())
    return step.outcome()


class _Step:
    """The new market, and what is known of it so far."""

    def __init__(
        self, kept: Kept, t: Transport, rows_were: IntVector, offers_were: IntVector, changed: BoolVector
    ) -> None:
        self._kept, self._t = kept, t
        self._costs = Costs(t.seconds.tolist(), t.price, t.eligible)
        self._rows_were, self._offers_were = rows_were, offers_were
        opened = (t.supply > 0) & (kept.t.supply[offers_were] == 0)
        self._fresh = np.flatnonzero(changed | (offers_were < 0) | opened)
        self._row_now = _inverse(rows_were, len(kept.t.demand))
        self._offer_now = _inverse(offers_were, len(kept.t.supply))
        self._group, self._caps = groups_of(t)
        self._market = Network(t.demand, t.supply, self._group, self._caps)
        self._prices = np.where(offers_were >= 0, kept.flow.prices[offers_were], 0)
        self._paid = np.where(rows_were >= 0, kept.paid[rows_were], NEVER)
        self._rows, self._offers, self._units = NO_PAIRS, NO_PAIRS, NO_PAIRS
        self._block = Block(self._costs, self._fresh)
        # All other prices are those of the last market.
        self._high = max(
            kept.high, self._block.highest, highest(t.price[row] for row in np.flatnonzero(rows_were < 0).tolist())
        )
        self.near = self._mapped(kept.near)

    def fits(self) -> bool:
        """Whether 64 bits hold the costs as they are, and the prices of yesterday on top of them."""
        kept = self._kept
        most = max(int(kept.flow.prices.max(initial=0)), int(kept.paid.max(initial=0, where=kept.paid < NEVER)))
        return most < COST_RANGE // 2 and fits(self._costs, self._market.nodes, self._high)

    def price_again(self) -> None:
        """Prices of fresh offers at which no class finds them too cheap, then what new classes pay."""
        self._prices[self._fresh] = self._block.bids(self._paid)
        lost = np.flatnonzero(self._paid >= NEVER)
        whole = Pricing(self._costs, lost, np.ones(len(self._prices), dtype=np.bool_))
        self._paid[lost] = whole.best(self._prices)[lost]
        asking = np.flatnonzero(self._t.demand)
        self.near = self.near.with_(self._block.nearest(asking, self._prices[self._fresh], ALTERNATIVES))
        if len(lost):
            self.near = self.near.with_(whole.below(self._prices, np.full(len(self._paid), NEVER), self._few(50)))

    def keep(self) -> None:
        """Keep what still is asked, allowed, there and worth its price: of an offer that shrank, by priority."""
        flow = self._kept.flow
        rows, offers = self._row_now[flow.rows], self._offer_now[flow.offers]
        here = np.flatnonzero((rows >= 0) & (offers >= 0))
        rows, offers, units = rows[here], offers[here], flow.units[here]
        is_fresh = np.zeros(len(self._prices), dtype=np.bool_)
        is_fresh[self._fresh] = True
        for at in np.flatnonzero(is_fresh[offers]).tolist():
            if not self._t.eligible[rows[at]][offers[at]]:
                units[at] = 0
        self.near = self.near.with_(Pairs(rows[units > 0], offers[units > 0]))
        over = self._costs_of(rows, offers) + self._prices[offers] - self._paid[rows]
        units[over > 0] = 0
        urgent = -np.array(self._t.priority, dtype=np.int64)[rows]
        units = _within(rows, units, self._t.demand, self._prices[offers])
        units = _within(offers, units, self._t.supply, urgent)
        group = self._group[offers]
        capped = np.flatnonzero(group != UNCAPPED)
        units[capped] = _within(group[capped], units[capped], self._caps, urgent[capped])
        self._rows, self._offers, self._units = rows, offers, units

    def _costs_of(self, rows: IntVector, offers: IntVector) -> IntVector:
        """Costs of pairs in any order."""
        order = np.argsort(rows, kind="stable")
        costs = np.empty(len(rows), dtype=np.int64)
        costs[order] = costs_of(self._costs, Pairs(rows[order], offers[order]))
        return costs

    def place(self, pairs: Pairs) -> None:
        """Give the units that wait what is left, over these pairs, at the least cost."""
        wanted = self._t.demand - summed(self._rows, self._units, len(self._paid))
        left = self._left()
        useful = np.flatnonzero((wanted[pairs.rows] > 0) & (left[pairs.offers] > 0))
        if not len(useful):
            return
        pairs = Pairs(pairs.rows[useful], pairs.offers[useful])
        rows, row = np.unique(pairs.rows, return_inverse=True)
        offers, column = np.unique(pairs.offers, return_inverse=True)
        costs = costs_of(self._costs, pairs)
        rank = np.unique(np.array(self._t.priority, dtype=np.int64)[rows], return_inverse=True)[1] + 1
        waiting = wanted[rows]
        group = np.append(self._group[offers], UNCAPPED)
        net = Network(waiting, np.append(left[offers], waiting.sum()), group, self._caps_left())
        stay = np.minimum(4 * int(costs.max()) * rank, COST_RANGE // (net.nodes + 4))
        arcs = Arcs(
            np.append(row, np.arange(len(rows))),
            np.append(column, np.full(len(rows), len(offers))),
            np.append(costs, stay),
        )
        units = units_on(net, arcs)[: len(pairs)]
        self._rows, self._offers = np.append(self._rows, pairs.rows), np.append(self._offers, pairs.offers)
        self._units = np.append(self._units, units)

    def asks_further(self) -> bool:
        """Whether units wait of so few classes that all offers may be looked at for them."""
        return 0 < len(self._waiting()) <= SEARCHED

    def anywhere(self) -> Pairs:
        """Offers with something left for the classes that still have units waiting."""
        pricing = Pricing(self._costs, self._waiting(), self._left() > 0)
        return pricing.below(self._prices, np.full(len(self._paid), NEVER), self._few(100))

    def outcome(self) -> Kept | None:
        """The flow with its bounds, once all that can be placed are; None where that takes a full solve."""
        aside = Aside(self._t, self._market, self._rows, self._offers, self._units)
        if not aside.let_in():
            return None
        self._rows, self._offers, self._units = aside.rows, aside.offers, aside.units
        waits = self._t.demand - summed(self._rows, self._units, len(self._paid))
        pairs = Pairs(NO_PAIRS, NO_PAIRS).with_(Pairs(self._rows, self._offers))
        units = pairs.summed(self._rows, self._offers, self._units)
        sold = units > 0
        rows, offers, units = pairs.rows[sold], pairs.offers[sold], units[sold]
        cost = product(units, costs_of(self._costs, Pairs(rows, offers)))
        placed = int(units.sum())
        most = placed if not waits.any() else self._most(waits, aside.full)
        place = np.unique(np.array(self._t.priority, dtype=np.int64), return_inverse=True)[1]
        served = summed(place, self._t.demand - waits, int(place.max(initial=-1)) + 1)
        floor = filled(self._t.demand, self._paid, place, served) - worth(self._market, self._prices)
        proven = (most, floor) == (placed, cost)
        flow = Flow(rows, offers, units, placed, most, cost, max(0, floor), proven, 1, self._prices)
        return Kept(self._t, self._high, flow, self._paid, self.near)

    def _most(self, waits: IntVector, full: BoolVector) -> int:
        """How many units can be placed at most: of the classes that may go elsewhere all, and what the full hold."""
        elsewhere = np.flatnonzero(waits == 0)
        masks = {id(each): each for each in self._t.eligible}
        goes = {name for name, mask in masks.items() if not (mask <= full).all()}
        elsewhere = elsewhere[[id(self._t.eligible[row]) in goes for row in elsewhere.tolist()]]
        return int(self._t.demand[elsewhere].sum()) + worth(self._market, full.astype(np.int64))

    def _waiting(self) -> IntVector:
        return np.flatnonzero(self._t.demand > summed(self._rows, self._units, len(self._paid)))

    def _left(self) -> IntVector:
        return self._t.supply - summed(self._offers, self._units, len(self._prices))

    def _caps_left(self) -> IntVector:
        group = self._group[self._offers]
        capped = group != UNCAPPED
        return self._caps - summed(group[capped], self._units[capped], len(self._caps))

    def _few(self, count: int) -> IntVector:
        return np.full(len(self._paid), count, dtype=np.int64)

    def _mapped(self, pairs: Pairs) -> Pairs:
        """Pairs of the last market in this one; those at fresh offers are looked for anew."""
        rows, offers = self._row_now[pairs.rows], self._offer_now[pairs.offers]
        is_fresh = np.zeros(len(self._prices) + 1, dtype=np.bool_)
        is_fresh[self._fresh] = True
        here = (rows >= 0) & (offers >= 0) & ~is_fresh[offers]
        return Pairs(NO_PAIRS, NO_PAIRS).with_(Pairs(rows[here], offers[here]))


def _inverse(were: IntVector, length: int) -> IntVector:
    """Where each of so many is now, -1 for those that are gone."""
    now = np.full(length, -1, dtype=np.int64)
    kept = np.flatnonzero(were >= 0)
    now[were[kept]] = kept
    return now


def _within(keys: IntVector, units: IntVector, limit: IntVector, last: IntVector) -> IntVector:
    """The units cut so that no key holds more than its limit: the entries with the greatest `last` lose first."""
    order = np.lexsort((last, keys))
    sorted_keys, sorted_units = keys[order], units[order]
    before = np.cumsum(sorted_units) - sorted_units
    before -= before[np.searchsorted(sorted_keys, sorted_keys)]
    kept = np.empty_like(units)
    kept[order] = np.clip(limit[sorted_keys] - before, 0, sorted_units)
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class Kinds:
    """`kind` (C,) of each class, numbered as they first appear, and `first` (K,), the first class of each kind."""

    kind: IntVector
    first: IntVector

    def joined(self, t: Transport) -> Transport:
        """The same market with one class per kind."""
        first = self.first.tolist()
        return replace(
            t,
            demand=summed(self.kind, t.demand, len(first)),
            priority=tuple(t.priority[row] for row in first),
            seconds=t.seconds[self.first],
            price=[t.price[row] for row in first],
            eligible=[t.eligible[row] for row in first],
        )

    def shared_out(self, t: Transport, flow: Flow) -> Flow:
        """A flow of the joined market for the classes: those that come first get the units of the first offers."""
        if not len(flow.units):
            return flow
        members = np.argsort(self.kind, kind="stable")
        wanted = np.concatenate([[0], np.cumsum(t.demand[members])])
        kind_starts = wanted[np.searchsorted(self.kind[members], np.arange(len(self.first)))]
        ends = np.cumsum(flow.units)
        before = np.concatenate([[0], ends])[np.searchsorted(flow.rows, flow.rows)]
        until = kind_starts[flow.rows] + ends - before
        cuts = np.unique(np.concatenate([until, until - flow.units, wanted]))
        middle = cuts[:-1]
        part = np.searchsorted(until, middle, side="right")
        owner = np.searchsorted(wanted, middle, side="right") - 1
        real = (part < len(until)) & (middle >= (until - flow.units)[np.minimum(part, len(until) - 1)])
        rows, offers, units = members[owner[real]], flow.offers[part[real]], np.diff(cuts)[real]
        order = np.lexsort((offers, rows))
        return replace(flow, rows=rows[order], offers=offers[order], units=units[order])


def alike(t: Transport) -> Kinds:
    """Which classes have the same priority, run limit, prices and offers; those two as the same objects."""
    numbers: dict[tuple[int, int, int, int], int] = {}
    first: list[int] = []
    kind = np.empty(len(t.demand), dtype=np.int64)
    for row, key in enumerate(zip(t.priority, t.seconds.tolist(), map(id, t.price), map(id, t.eligible), strict=True)):
        if key not in numbers:
            numbers[key] = len(first)
            first.append(row)
        kind[row] = numbers[key]
    return Kinds(kind, np.array(first, dtype=np.int64))


__all__ = ["Flow", "Transport", "solved", "transport"]


def transport(t: Transport, *, clearing: bool = False, first_only: bool = False) -> Flow:
    """The most units of the highest priority, then of the next, and so on; of those the least cost.

    Among equals the least sum of offer indices, where 64 bits allow. Deterministic. `clearing` adds the intervals of
    the prices; `first_only` stops at the first flow and states how good it is.
    """
    return solved(t, ALL_PAIRS, clearing=clearing, first_only=first_only)


def solved(t: Transport, shard: int, *, clearing: bool, first_only: bool) -> Flow:
    """`transport` in shards of at least so many pairs each, where the market falls into parts."""
    kinds = alike(t)
    if len(kinds.first) < len(t.demand):
        return kinds.shared_out(t, solved(kinds.joined(t), shard, clearing=clearing, first_only=first_only))
    group, _ = groups_of(t)
    shards = split(t.eligible, tied(t, group), shard)
    if len(shards) == 1:
        return Solver(t).solve(intervals=clearing, first_only=first_only)
    flows = [Solver(_part(t, each)).solve(intervals=clearing, first_only=first_only) for each in shards]
    return _merged(t, shards, flows)


def _part(t: Transport, shard: Shard) -> Transport:
    """The shard alone, with vectors that were shared still shared."""
    rows, offers = shard
    return Transport(
        demand=t.demand[rows],
        priority=tuple(t.priority[row] for row in rows.tolist()),
        seconds=t.seconds[rows],
        price=cut(t.price, rows, offers),
        eligible=cut(t.eligible, rows, offers),
        supply=t.supply[offers],
        provider=t.provider[offers],
        slots=t.slots,
        hint=None if t.hint is None else t.hint[offers],
    )


def _merged(t: Transport, shards: Sequence[Shard], flows: Sequence[Flow]) -> Flow:
    rows = np.concatenate([shard.rows[flow.rows] for shard, flow in zip(shards, flows, strict=True)])
    offers = np.concatenate([shard.offers[flow.offers] for shard, flow in zip(shards, flows, strict=True)])
    units = np.concatenate([flow.units for flow in flows])
    order = np.lexsort((offers, rows))
    prices, low, high = (np.zeros(len(t.supply), dtype=np.int64) for _ in range(3))
    intervals = False
    for shard, flow in zip(shards, flows, strict=True):
        prices[shard.offers] = flow.prices
        if flow.clearing is not None:
            intervals = True
            low[shard.offers], high[shard.offers] = flow.clearing.low, flow.clearing.high
    return Flow(
        rows=rows[order],
        offers=offers[order],
        units=units[order],
        placed=sum(flow.placed for flow in flows),
        most=sum(flow.most for flow in flows),
        cost=sum(flow.cost for flow in flows),
        floor=sum(flow.floor for flow in flows),
        certified=all(flow.certified for flow in flows),
        rounds=sum(flow.rounds for flow in flows),
        prices=prices,
        clearing=Clearing(low, high) if intervals else None,
    )


GAP: Final = 0.001
"""The share of the cost, and of the units, that may be unproven before an update solves fully."""

NEAR: Final = 30
"""Offers that are remembered for a class beyond those that its demand needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What became of the last market.

    `rows_were` (C,) and `offers_were` (O,): where each class and offer was in it, -1 for those that are new; a class
    with a price or eligibility rule of another kind is new. `changed` (O,): whether the offer's price or eligibility is
    another for anybody. Demand, supply and slots are compared by the session.
    """

    rows_were: IntVector
    offers_were: IntVector
    changed: BoolVector


class Session:
    """The last solution of one market, and how to go on from it."""

    def __init__(self, gap: float = GAP) -> None:
        self._gap = gap
        self._kept: Kept | None = None

    def solve(self, t: Transport) -> Flow:
        """The exact optimum, see `transport`; the next update starts from it."""
        flow = transport(t)
        solver = Solver(t)
        costs = solver.plain.costs
        whole = Costs(t.seconds.tolist(), t.price, t.eligible)
        high = highest(t.price)
        if fits(whole, solver.market.nodes, high):
            paid, pairs = solver.plain.best(flow.prices // costs.unit), Pairs(flow.rows, flow.offers)
            size = np.minimum(sizes(solver.market) + NEAR, len(t.supply))
            near = solver.plain.below(flow.prices // costs.unit, np.full(len(paid), NEVER), size)
            paid = np.where(paid < NEVER, paid * costs.unit, NEVER)
            # What is closed today may be open tomorrow: its price too must be one that no class finds too cheap.
            closed = replace(solver.plain, costs=whole).bids(paid)
            prices = np.where(solver.plain.open, flow.prices, closed)
            self._kept = Kept(t, high, replace(flow, prices=prices), paid, near.with_(pairs))
        else:
            self._kept = None
        return flow

    def update(self, t: Transport, change: Change) -> Flow:
        """A lawful flow for the changed market with its bounds; the exact optimum where those would be too loose."""
        kept = (
            None if self._kept is None else updated(self._kept, t, change.rows_were, change.offers_were, change.changed)
        )
        if kept is None or _unproven(kept.flow) > self._gap:
            return self.solve(t)
        self._kept = kept
        return kept.flow


def _unproven(flow: Flow) -> float:
    """The larger share of the cost and of the units that the bounds leave open."""
    cost = (flow.cost - flow.floor) / max(1, flow.cost)
    return max(cost, (flow.most - flow.placed) / max(1, flow.most))
