"""The exact solve of one market: pairs are priced in until the optimum is proven over all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.placement.flow.augment import Aside
from fedgpu_operator.placement.flow.clearing import clearing, plain_prices
from fedgpu_operator.placement.flow.costs import COST_RANGE, MOST, NEVER, in_money, scaled
from fedgpu_operator.placement.flow.duals import bound, filled, worth
from fedgpu_operator.placement.flow.network import UNCAPPED, summed
from fedgpu_operator.placement.flow.pricing import Pairs, Pricing
from fedgpu_operator.placement.flow.shards import parts
from fedgpu_operator.placement.flow.start import guess, idle_costs, nearby, sizes
from fedgpu_operator.placement.flow.state import Idle, Market, State, flow_on
from fedgpu_operator.placement.flow.units import Flow, Transport
from fedgpu_operator.placement.problem import IntVector

ALL_PAIRS: Final = 65_536
"""Pairs up to which all of them are looked at from the start."""

FEW: Final = 16
"""Chains of moves after which a flow without costs is the quicker way to the greatest count."""


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
        pairs, full, counted = None, None, True
        if self._pricing.count() > ALL_PAIRS:
            state, guessed = self._guessed()
            full = self._let_in(state)
            if full is not None and first_only:
                return self._first(full, (guessed,))
            cheapest = np.minimum(self.plain.best(state.prices), state.known)
            pairs = self._with_cheaper(self.plain, state, cheapest, (full or state).sold)
        if pairs is None or full is None:
            free = replace(self._pricing, costs=self._costs.free())
            full, counted = self._proven(free, pairs or self._pricing.pairs(), self._by_count())
            pairs = full.pairs
        idle = Idle(full.idle, np.zeros_like(self.market.demand))
        if first_only:
            return self._first(flow_on(self.market, self.plain.costs, pairs, idle), ())
        best, proven = self._proven(self._pricing, pairs, idle)
        prices = best.prices if self._costs.base == 1 else plain_prices(self.market, self.plain, best, idle)
        flow = self._flow(best, prices)
        # Every last digit together is below the base, and what is above the ceiling only costs more.
        floor = best.value // self._costs.base * self._costs.unit if proven else 0
        found = clearing(self.market, self.plain, best, idle) if intervals else None
        return replace(flow, floor=floor, certified=counted and floor == flow.cost, clearing=found)

    def _by_count(self) -> Idle:
        """Idle places so that what counts is how many wait, the more the higher their priority."""
        return Idle(self.market.waiting, self.market.rank)

    def _guessed(self) -> tuple[State, IntVector]:
        """A flow that is nearly the cheapest, and the prices that led to it."""
        market, pricing = self.market, self.plain
        idle_cost, coarse = idle_costs(pricing.costs, market)
        if self._t.hint is None:
            best = guess(pricing, market, idle_cost, coarse)
        else:
            hint = np.clip(self._t.hint // min(pricing.costs.unit, MOST), 0, COST_RANGE)
            best = np.minimum(pricing.best(hint), idle_cost)
        prices = pricing.bids(best)
        pairs = nearby(pricing, prices, best, sizes(market))
        self._rounds += 1
        return flow_on(market, pricing.costs, pairs, Idle(market.waiting, idle_cost), coarse), prices

    def _let_in(self, state: State) -> State | None:
        """The flow with all units let in that can be placed; None where it takes many moves to prove that."""
        if not state.idle.any():
            return state
        market, sold = self.market, state.sold
        units = state.units[: len(state.pairs)]
        aside = Aside(self._t, market.offers, sold.rows, sold.offers, units[units > 0])
        if not aside.let_in(FEW):
            return None
        pairs = state.pairs.with_(Pairs(aside.rows, aside.offers))
        units = pairs.summed(aside.rows, aside.offers, aside.units)
        waits = market.demand - summed(pairs.rows, units, len(market.demand))
        idle = summed(market.place, waits, market.places)
        return replace(state, pairs=pairs, units=np.append(units, waits), idle=idle)

    def _proven(self, pricing: Pricing, pairs: Pairs, idle: Idle) -> tuple[State, bool]:
        """The cheapest flow over all pairs, with the proof: pairs below its prices are added until there is none."""
        market = self.market
        net = market.network(idle.room)
        before: int | None = None
        while True:
            self._rounds += 1
            state = flow_on(market, pricing.costs, pairs, idle)
            best = np.minimum(pricing.best(state.prices), state.known)
            if not (best < state.known)[market.demand > 0].any():
                return state, bound(net, best, np.append(state.prices, state.idle_prices)) == state.value
            # While the cost falls, pairs far too dear may go; once it stands still all are kept, so that this ends.
            falls = before is None or state.value < before
            pairs = self._with_cheaper(pricing, state, best, state.sold if falls else state.pairs)
            if not falls and len(pairs) == len(state.pairs):
                raise FedGPUError(f"the prices of {len(pairs)} pairs are contradicted, and no pair is left to add")
            before = state.value

    def _with_cheaper(self, pricing: Pricing, state: State, best: IntVector, kept: Pairs) -> Pairs:
        """The pairs `kept`, those that the prices of this flow contradict, and those that come near."""
        size = sizes(self.market)
        over = int((state.known - best).max(where=self.market.demand > 0, initial=0))
        limit = np.minimum(state.known + 2 * over, NEVER)
        near = pricing.below(pricing.bids(state.known), limit, size)
        return kept.with_(near.with_(pricing.below(state.prices, state.known, size)))

    def _first(self, state: State, more: tuple[IntVector, ...]) -> Flow:
        """A flow that places all that can be placed, with the best bound that its prices and some `more` give."""
        pricing = self.plain
        asked = pricing.bids(state.known)
        tried = (state.prices, (state.prices + asked) // 2, asked, *more, *((asked + each) // 2 for each in more))
        floor = max(self._floor(pricing, state, prices) for prices in tried) * pricing.costs.unit
        flow = self._flow(state, state.prices)
        return replace(flow, floor=floor, certified=floor == flow.cost)

    def _floor(self, pricing: Pricing, state: State, prices: IntVector) -> int:
        """What these prices prove that placing as many units of each level costs at least, in solver units."""
        market, best = self.market, pricing.best(prices)
        placed = market.waiting - state.idle
        nobody = np.zeros_like(placed)
        capacity = worth(market.network(nobody), np.append(prices, nobody))
        return filled(market.demand, best, market.place, placed) - capacity

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
