"""The exact solve of one market: pairs are priced in until the optimum is proven over all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.placement.flow.clearing import clearing, plain_prices
from fedgpu_operator.placement.flow.costs import NEVER, in_money, scaled
from fedgpu_operator.placement.flow.duals import bound, filled, worth
from fedgpu_operator.placement.flow.network import UNCAPPED, summed
from fedgpu_operator.placement.flow.pricing import Pairs, Pricing
from fedgpu_operator.placement.flow.shards import parts
from fedgpu_operator.placement.flow.start import guess, idle_costs, nearby, sizes
from fedgpu_operator.placement.flow.state import Idle, Market, State, flow_on
from fedgpu_operator.placement.flow.units import Flow, Transport
from fedgpu_operator.placement.problem import BoolVector, IntVector

ALL_PAIRS: Final = 65_536
"""Pairs up to which all of them are looked at from the start."""

ENOUGH: Final = 0.98
"""The share of what could be placed at best from which a first flow needs no proof of the count."""


class Solver:
    """One solve of one shard."""

    def __init__(self, t: Transport) -> None:
        self._t = t
        ranks = {each: rank for rank, each in enumerate(sorted(set(t.priority)), 1)}
        rank = np.array([ranks[each] for each in t.priority], dtype=np.int64)
        group, caps = groups_of(t)
        part = parts(t.eligible, tied(t, group))
        here, place = np.unique(part * (len(ranks) + 1) + rank, return_inverse=True)
        self.market = Market(t.demand, rank, place, len(here), t.supply, group, caps)
        capped = group != UNCAPPED
        is_open = t.supply > 0
        is_open[capped] &= caps[group[capped]] > 0
        total = int(t.demand.sum())
        self._costs = scaled(t.seconds.tolist(), t.price, t.eligible, nodes=self.market.nodes, units=total)
        self._pricing = Pricing(self._costs, np.flatnonzero(t.demand), is_open)
        self.plain = replace(self._pricing, costs=self._costs.plain())
        self._rounds = 0

    def solve(self, *, intervals: bool, first_only: bool) -> Flow:
        """The best flow with its proof, or the first one found with its bounds."""
        pairs, idle, counted = None, None, True
        if self._pricing.count() > ALL_PAIRS:
            state, scarce = self._guessed()
            if first_only and self._is_nearly_all(state):
                return self._first(state, None, scarce)
            pairs = self._around(state)
            idle = None if state.idle.any() else Idle(state.idle, np.zeros_like(self.market.demand))
        if pairs is None or idle is None:
            free = replace(self._pricing, costs=self._costs.free())
            most, counted = self._proven(free, pairs or self._pricing.pairs(), self._by_count())
            pairs, idle = most.pairs, Idle(most.idle, np.zeros_like(self.market.demand))
            if first_only:
                state = flow_on(self.market, self.plain.costs, pairs, idle)
                return self._first(state, int((self.market.waiting - most.idle).sum()), 0)
        best, proven = self._proven(self._pricing, pairs, idle)
        prices = best.prices if self._costs.base == 1 else plain_prices(self.market, self.plain, best, idle)
        flow = self._flow(best, prices)
        # Every last digit together is below the base, and what is above the ceiling only costs more.
        floor = best.value // self._costs.base * self._costs.unit if proven else 0
        found = clearing(self.market, self.plain, best, idle) if intervals else None
        return replace(flow, floor=floor, certified=counted and floor == flow.cost, clearing=found)

    def _is_nearly_all(self, state: State) -> bool:
        """Whether a first flow places about as much as there can be."""
        market = self.market
        asked = int(market.demand.sum())
        return asked - int(state.idle.sum()) >= ENOUGH * min(asked, int(market.supply[self._pricing.open].sum()))

    def _by_count(self) -> Idle:
        """Idle places so that what counts is how many wait, the more the higher their priority."""
        return Idle(self.market.waiting, self.market.rank)

    def _guessed(self) -> tuple[State, int]:
        """A flow that is nearly the cheapest, and the price from which an offer is so dear that units wait for it."""
        market, pricing = self.market, self.plain
        idle_cost, coarse = idle_costs(pricing.costs, market)
        best = guess(pricing, market, idle_cost, coarse)
        pairs = nearby(pricing, pricing.bids(best), best, sizes(market))
        self._rounds += 1
        state = flow_on(market, pricing.costs, pairs, Idle(market.waiting, idle_cost), coarse)
        return state, int(idle_cost.min()) // 2

    def _around(self, state: State) -> Pairs:
        """The pairs that matter at the prices that the classes of this flow pay."""
        prices = self.plain.bids(state.known)
        return nearby(self.plain, prices, state.known, sizes(self.market)).with_(state.sold)

    def _proven(self, pricing: Pricing, pairs: Pairs, idle: Idle) -> tuple[State, bool]:
        """The cheapest flow over all pairs, with the proof: pairs below its prices are added until there is none."""
        market, size = self.market, sizes(self.market)
        before: int | None = None
        while True:
            self._rounds += 1
            state = flow_on(market, pricing.costs, pairs, idle)
            best = np.minimum(pricing.best(state.prices), state.known)
            over = np.where(market.demand > 0, state.known - best, 0)
            worst = int(over.max(initial=0))
            if worst == 0:
                net = market.network(idle.room)
                return state, bound(net, best, np.append(state.prices, state.idle_prices)) == state.value
            limit = np.minimum(state.known + 2 * worst, NEVER)
            new = pricing.below(pricing.bids(state.known), limit, size).with_(
                pricing.below(state.prices, state.known, size)
            )
            # While the cost falls, pairs far too dear may go; once it stands still all are kept, so that this ends.
            falls = before is None or state.value < before
            pairs = (state.sold if falls else state.pairs).with_(new)
            if not falls and len(pairs) == len(state.pairs):
                raise FedGPUError(f"the prices of {len(pairs)} pairs are contradicted, and no pair is left to add")
            before = state.value

    def _first(self, state: State, most: int | None, scarce: int) -> Flow:
        """A flow that is not proven, with the bounds that its prices give."""
        pricing = self.plain
        asked = pricing.bids(state.known)
        between = (state.prices, (3 * state.prices + asked) // 4, (state.prices + asked) // 2, asked)
        floor = max(self._floor(pricing, state, prices) for prices in between)
        flow = self._flow(state, state.prices)
        if most is None:
            most = self._most(state.prices >= scarce) if state.idle.any() else flow.placed
        floor *= pricing.costs.unit
        return replace(flow, most=most, floor=floor, certified=most == flow.placed and floor == flow.cost)

    def _floor(self, pricing: Pricing, state: State, prices: IntVector) -> int:
        """What these prices prove that placing as many units of each level costs at least, in solver units."""
        market, best = self.market, pricing.best(prices)
        placed = market.waiting - state.idle
        nobody = np.zeros_like(placed)
        capacity = worth(market.network(nobody), np.append(prices, nobody))
        return filled(market.demand, best, market.place, placed) - capacity

    def _most(self, full: BoolVector) -> int:
        """How many units can be placed at most: all of the classes that may go elsewhere, and what the full hold."""
        market = self.market
        prices = full.astype(np.int64)
        elsewhere = replace(self._pricing, costs=self._costs.free()).best(prices) == 0
        held = worth(market.network(np.zeros(market.places, dtype=np.int64)), np.append(prices, [0] * market.places))
        return min(int(market.demand.sum()), int(market.demand[elsewhere].sum()) + held)

    def _flow(self, state: State, prices: IntVector) -> Flow:
        sold = state.sold
        units = state.units[: len(state.pairs)]
        units = units[units > 0]
        cost = sum(
            each * int(self._t.price[row][offer]) * int(self._t.seconds[row])
            for row, offer, each in zip(sold.rows.tolist(), sold.offers.tolist(), units.tolist(), strict=True)
        )
        placed = int(units.sum())
        worths = in_money(prices, self._costs.unit)
        return Flow(sold.rows, sold.offers, units, placed, placed, cost, 0, False, self._rounds, worths)


def tied(t: Transport, group: IntVector) -> IntVector:
    """What offers share besides classes, (O,): those of a provider whose slots can bind have the same number."""
    return np.where(group == UNCAPPED, len(t.slots) + np.arange(len(t.supply)), t.provider)


def groups_of(t: Transport) -> tuple[IntVector, IntVector]:
    """The capped provider of each offer, (O,), and the caps: only of providers whose slots can bind."""
    held = summed(t.provider, t.supply, len(t.slots))
    binding = [p for p, slots in enumerate(t.slots) if slots is not None and slots < held[p]]
    index = np.full(len(t.slots) + 1, UNCAPPED, dtype=np.int64)
    index[binding] = np.arange(len(binding))
    return index[t.provider], np.array([max(0, t.slots[p] or 0) for p in binding], dtype=np.int64)
