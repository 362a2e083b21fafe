"""A first guess of what a unit is worth to each class: the market in miniature, then less small; nothing exact."""

from __future__ import annotations

from typing import Final

import numpy as np

from fedgpu_operator.placement.flow.costs import NEVER, Costs
from fedgpu_operator.placement.flow.network import UNCAPPED, summed
from fedgpu_operator.placement.flow.pricing import Pairs, Pricing
from fedgpu_operator.placement.flow.state import Idle, Market, flow_on
from fedgpu_operator.placement.problem import IntVector

CLASSES: Final = 1_000
"""Classes in the miniature at most."""

PAIRS: Final = 65_536
"""Pairs of the miniature, about: its flow takes some hundredths of a second."""

STEP: Final = 8
"""How much larger the second miniature is than the first."""

UNITS: Final = 10_000_000
"""Units that ask in a miniature: enough that rounding the parts of the market to whole units shifts little."""

DETOUR: Final = 4
"""How many typical dear costs it costs to leave a unit waiting while counts are not yet known."""

FINE: Final = 2**19
"""Steps into which a typical dear cost is divided while nothing must be exact."""


def idle_costs(costs: Costs, market: Market) -> tuple[IntVector, int]:
    """What waiting costs a unit of each class while counts are not yet known, (C,), and the step of rounded costs."""
    look = np.arange(0, len(market.supply), max(1, len(market.supply) // 64))
    typical = 1
    for row in np.flatnonzero(market.demand).tolist():
        sample = np.sort(costs.at(row, look)[costs.eligible[row][look]])
        if len(sample):
            typical = max(typical, int(sample[len(sample) // 2]))
    return DETOUR * typical * market.rank, max(1, typical // FINE)


def sizes(market: Market) -> IntVector:
    """How many offers a class should know, (C,): several times what its demand fills, and some for choice."""
    asking, offers = int(np.count_nonzero(market.demand)), len(market.supply)
    mean = max(1.0, float(market.supply.sum()) / max(1, offers))
    some = min(20, max(8, 20_000 // max(1, asking)))
    return np.minimum(some + (4 * market.demand / mean).astype(np.int64), offers)


def nearby(pricing: Pricing, prices: IntVector, best: IntVector, size: IntVector) -> Pairs:
    """For each class about `size` offers that are cheapest at these prices, for each offer its nearest classes."""
    anything = np.full(len(best), NEVER, dtype=np.int64)
    return pricing.below(prices, anything, size).with_(pricing.rivals(prices, best))


def guess(pricing: Pricing, market: Market, idle_cost: IntVector, coarse: int) -> IntVector:
    """The cost plus price at which each class buys, (C,), about; NEVER where nothing is known."""
    costs, asking = pricing.costs, pricing.asking
    rows = asking[:: -(-len(asking) // CLASSES)]
    by_price = _by_price(costs, rows, np.flatnonzero(pricing.open))
    some = rows[:: max(1, len(rows) // 64)].tolist()
    density = max(0.01, float(np.mean([costs.eligible[row][by_price].mean() for row in some])))
    size = max(16, int(PAIRS / (len(rows) * density)))
    mini = _Miniature(costs, market, rows, _spread(by_price, size))
    best, prices = mini.solve(None, idle_cost, coarse)
    if size * 2 * STEP < len(by_price):
        larger = _Miniature(costs, market, asking, _spread(by_price, size * STEP))
        best = mini.known_to(asking, costs, best, prices)
        mini, rows = larger, asking
        best, prices = mini.solve(best, idle_cost, coarse)
    whole = np.full(len(market.demand), NEVER, dtype=np.int64)
    whole[asking] = mini.known_to(asking, costs, best, prices) if len(rows) < len(asking) else best
    return whole


class _Miniature:
    """Some classes and some offers of a market, blown up to the same scarcity."""

    def __init__(self, costs: Costs, market: Market, rows: IntVector, offers: IntVector) -> None:
        self.offers, self._rows = offers, rows
        self._costs = costs.among(rows, offers)
        self._pricing = Pricing(self._costs, np.arange(len(rows)), np.ones(len(offers), dtype=np.bool_))
        supply = _within_caps(market)
        scarcity = float(supply.sum()) / max(1.0, float(market.demand.sum()))
        demand = _blown_up(market.demand[rows], UNITS)
        held = _blown_up(supply[offers], int(UNITS * min(scarcity, 1e3)))
        nobody = np.full(len(offers), UNCAPPED, dtype=np.int64)
        self._market = Market(
            demand, market.rank[rows], market.place[rows], market.places, held, nobody, np.zeros(0, dtype=np.int64)
        )
        self._lost = np.array([not each.any() for each in self._costs.eligible], dtype=np.bool_)

    def solve(self, best: IntVector | None, idle_cost: IntVector, coarse: int) -> tuple[IntVector, IntVector]:
        """What each class pays (NEVER if nothing is here for it) and the prices, given what they paid before."""
        pricing, market = self._pricing, self._market
        idle = Idle(market.waiting, idle_cost[self._rows])
        if best is None:
            state = flow_on(market, self._costs, pricing.pairs(), idle, coarse)
        else:
            size = sizes(market)
            state = flow_on(market, self._costs, nearby(pricing, pricing.bids(best), best, size), idle, coarse)
            state = flow_on(
                market, self._costs, nearby(pricing, pricing.bids(state.known), state.known, size), idle, coarse
            )
        return np.where(self._lost, NEVER, state.known), state.prices

    def known_to(self, asking: IntVector, costs: Costs, best: IntVector, prices: IntVector) -> IntVector:
        """What the classes `asking` would pay at the prices found here."""
        if len(self._rows) == len(asking):
            return best
        everything = np.ones(len(self.offers), dtype=np.bool_)
        return Pricing(costs.among(asking, self.offers), np.arange(len(asking)), everything).best(prices)


def _blown_up(units: IntVector, total: int) -> IntVector:
    """Units in their proportions, at least one each where there are some, that sum to about `total`."""
    factor = total / max(1.0, float(units.sum()))
    scaled: IntVector = np.maximum(np.rint(units * factor), units > 0).astype(np.int64)
    return scaled


def _within_caps(market: Market) -> IntVector:
    """Supply, where a provider's slots bind in proportion less of each offer."""
    capped = market.group != UNCAPPED
    held = summed(market.group[capped], market.supply[capped], len(market.caps))
    share = np.append(market.caps / np.maximum(1, held), 1.0)
    within: IntVector = np.rint(market.supply * np.minimum(1.0, share[market.group])).astype(np.int64)
    return within


def _by_price(costs: Costs, rows: IntVector, offers: IntVector) -> IntVector:
    """Offers from cheap to dear, by the middle of some classes' prices."""
    some = rows[:: max(1, len(rows) // 16)].tolist()
    middle = np.median(np.stack([costs.price[row][offers] for row in some]), axis=0)
    return offers[np.argsort(middle, kind="stable")]


def _spread(ordered: IntVector, count: int) -> IntVector:
    """So many of them at equal distances, sorted."""
    count = min(count, len(ordered))
    return np.sort(ordered[(np.arange(count) * len(ordered) + len(ordered) // 2) // count])
