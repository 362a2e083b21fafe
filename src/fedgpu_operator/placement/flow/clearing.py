"""What one more or one less unit of each offer is worth at the optimum, as intervals over all pairs; no solver here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedgpu_operator.placement.flow.costs import COST_RANGE, NEVER, in_money
from fedgpu_operator.placement.flow.duals import REACHED, Labels, Residual
from fedgpu_operator.placement.flow.network import Arcs
from fedgpu_operator.placement.flow.pricing import Pricing
from fedgpu_operator.placement.flow.start import sizes
from fedgpu_operator.placement.flow.state import Idle, Market, State, arcs_of, costs_of
from fedgpu_operator.placement.problem import UNBOUNDED, Clearing, IntVector


def plain_prices(market: Market, pricing: Pricing, state: State, idle: Idle) -> IntVector:
    """Optimal prices in plain costs, (O,), for a flow found with the last digit."""
    labels = _over_all_pairs(market, pricing, state, idle, Residual.from_all, _forward)
    return labels.prices(market.network(idle.room))[: len(market.supply)]


def clearing(market: Market, pricing: Pricing, state: State, idle: Idle) -> Clearing:
    """The least and the greatest price of each offer over all optimal prices, in µUSD · s per hour.

    Least: what one more unit of the offer, with a lease slot of its own, would save. Greatest: what taking one away
    for somebody else costs the rest; UNBOUNDED where then fewer units of some level would find a place. At offers with
    nothing to sell both are the least. (Shortest paths from and to the sink: R. K. Ahuja, T. L. Magnanti, J. B. Orlin,
    Network Flows, 1993, chapter 9.)
    """
    offers = len(market.supply)
    below = _over_all_pairs(market, pricing, state, idle, Residual.from_sink, _forward)
    above = _over_all_pairs(market, pricing, state, idle, Residual.to_sink, _backward)
    reached = np.where(below.rows < REACHED, -below.rows, NEVER)
    columns, ends = below.columns[:offers], above.columns[:offers]
    low = np.where(pricing.open, np.maximum(0, -columns), pricing.bids(reached))
    high = np.where(ends < REACHED, np.maximum(0, ends), UNBOUNDED)
    unit = pricing.costs.unit
    low = in_money(low, unit)
    high = np.where(pricing.open, np.where(high == UNBOUNDED, UNBOUNDED, in_money(high, unit)), low)
    return Clearing(low, high)


def _forward(labels: Labels, offers: int) -> tuple[IntVector, IntVector]:
    rows = np.where(labels.rows < REACHED, -labels.rows, -NEVER)
    return -np.minimum(labels.columns[:offers], COST_RANGE), rows


def _backward(labels: Labels, offers: int) -> tuple[IntVector, IntVector]:
    return np.minimum(labels.columns[:offers], NEVER), np.minimum(labels.rows, COST_RANGE)


def _over_all_pairs(
    market: Market,
    pricing: Pricing,
    state: State,
    idle: Idle,
    distances: Callable[[Residual], Labels],
    asked: Callable[[Labels, int], tuple[IntVector, IntVector]],
) -> Labels:
    """Distances in the residual graph of all pairs: those that would shorten one are added until there is none."""
    net = market.network(idle.room)
    size = sizes(market)
    arcs, units = arcs_of(market, pricing.costs, state.pairs, idle), state.units
    while True:
        labels = distances(Residual(net, arcs, units))
        prices, limit = asked(labels, len(market.supply))
        new = pricing.below(prices, limit, size)
        if not len(new):
            return labels
        costs = np.append(arcs.costs, costs_of(pricing.costs, new))
        arcs = Arcs(np.append(arcs.rows, new.rows), np.append(arcs.columns, new.offers), costs)
        units = np.append(units, np.zeros(len(new), dtype=np.int64))
