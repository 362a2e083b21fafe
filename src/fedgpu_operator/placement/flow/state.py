"""The market that flows run through, and a flow on some pairs with the prices that belong to it; no choice of pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fedgpu_operator.placement.flow.costs import NEVER, Costs
from fedgpu_operator.placement.flow.duals import Residual, product
from fedgpu_operator.placement.flow.network import UNCAPPED, Arcs, Network, summed, units_on
from fedgpu_operator.placement.flow.pricing import NO_PAIRS, Pairs
from fedgpu_operator.placement.problem import IntVector


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """Who asks and what there is. `group` as in Network.

    `rank` (C,) is the greater the higher the priority, from 1. `place` (C,) is where a class's units wait: there is one
    of the `places` for each priority in each part of the market that shares nothing with the rest.
    """

    demand: IntVector
    rank: IntVector
    place: IntVector
    places: int
    supply: IntVector
    group: IntVector
    caps: IntVector

    @property
    def nodes(self) -> int:
        """How many nodes its network has."""
        return len(self.demand) + len(self.supply) + self.places + len(self.caps) + 1

    @property
    def waiting(self) -> IntVector:
        """Units asked for per idle place, (L,)."""
        return summed(self.place, self.demand, self.places)

    @property
    def offers(self) -> Network:
        """Its network without the idle places."""
        return Network(self.demand, self.supply, self.group, self.caps)

    def network(self, room: IntVector) -> Network:
        """Its network, with `room` (L,) for units that wait."""
        group = np.append(self.group, np.full(self.places, UNCAPPED))
        return Network(self.demand, np.append(self.supply, room), group, self.caps)


@dataclass(frozen=True, slots=True, eq=False)
class Idle:
    """What each idle place holds, (L,), and what waiting there costs a unit of each class, (C,)."""

    room: IntVector
    cost: IntVector


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A cheapest flow on some pairs and prices complementary to it.

    `units` per pair, then per class waiting; `idle` (L,) waiting; `prices` (O,) and `idle_prices` (L,); `known` (C,):
    each class's least cost plus price over these pairs and its idle place. `value`: the exact cost, waiting included.
    """

    pairs: Pairs
    units: IntVector
    idle: IntVector
    prices: IntVector
    idle_prices: IntVector
    known: IntVector
    value: int

    @property
    def sold(self) -> Pairs:
        """The pairs with flow."""
        taken = self.units[: len(self.pairs)] > 0
        return Pairs(self.pairs.rows[taken], self.pairs.offers[taken])


def flow_on(market: Market, costs: Costs, pairs: Pairs, idle: Idle, coarse: int = 1) -> State:
    """The cheapest flow on `pairs` (sorted by row); all costs in steps of `coarse`, rounded down."""
    net = market.network(idle.room)
    exact = arcs_of(market, costs, pairs, idle)
    arcs = exact if coarse == 1 else replace(exact, costs=exact.costs // coarse)
    units = units_on(net, arcs)
    prices = Residual(net, arcs, units).from_all().prices(net) * coarse
    known = np.full(len(market.demand), NEVER, dtype=np.int64)
    np.minimum.at(known, exact.rows, exact.costs + prices[exact.columns])
    split, offers = len(pairs), len(market.supply)
    waiting = summed(market.place, units[split:], market.places)
    value = product(units[units > 0], exact.costs[units > 0])
    return State(pairs, units, waiting, prices[:offers], prices[offers:], known, value)


def arcs_of(market: Market, costs: Costs, pairs: Pairs, idle: Idle) -> Arcs:
    """The pairs as arcs, and after them each class's way to its idle place."""
    return Arcs(
        np.append(pairs.rows, np.arange(len(market.demand))),
        np.append(pairs.offers, market.place + len(market.supply)),
        np.append(costs_of(costs, pairs), idle.cost),
    )


def costs_of(costs: Costs, pairs: Pairs) -> IntVector:
    """The cost of each pair (sorted by row)."""
    cuts = np.searchsorted(pairs.rows, np.arange(len(costs.price) + 1)).tolist()
    spans = pairwise(cuts)
    parts = [costs.at(row, pairs.offers[begin:end]) for row, (begin, end) in enumerate(spans) if begin < end]
    return np.concatenate([NO_PAIRS, *parts])
