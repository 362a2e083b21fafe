"""One step from a solved market to one that differs a little: keep, release, place again, and bound; no full solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedgpu_operator.placement.flow.augment import Aside
from fedgpu_operator.placement.flow.block import Block
from fedgpu_operator.placement.flow.costs import COST_RANGE, NEVER, Costs, fits, highest
from fedgpu_operator.placement.flow.duals import filled, product, worth
from fedgpu_operator.placement.flow.exact import groups_of
from fedgpu_operator.placement.flow.network import UNCAPPED, Arcs, Network, summed, units_on
from fedgpu_operator.placement.flow.pricing import NO_PAIRS, Pairs, Pricing
from fedgpu_operator.placement.flow.state import costs_of
from fedgpu_operator.placement.flow.units import Flow, Transport
from fedgpu_operator.placement.problem import BoolVector, IntVector

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
