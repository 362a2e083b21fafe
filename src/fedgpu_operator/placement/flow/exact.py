"""The exact solve of one problem: pairs are priced in until the optimum is proven, and what a unit more is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.placement.flow.costs import COST_RANGE, MOST, NEVER, in_money, scaled
from fedgpu_operator.placement.flow.network import (
    REACHED,
    UNCAPPED,
    Arcs,
    FlowNetwork,
    FlowProblem,
    FlowState,
    Idle,
    Labels,
    Pairs,
    Pricing,
    Residual,
    arcs_of,
    bound,
    costs_of,
    filled,
    flow_on,
    summed,
    worth,
)
from fedgpu_operator.placement.flow.start import guess, idle_costs, nearby, sizes
from fedgpu_operator.placement.problem import UNBOUNDED, BoolVector, Clearing, IntVector


@dataclass(frozen=True, slots=True, eq=False)
class Transport:
    """Classes that want units, and offers. A unit of class c at offer o costs ``price[c][o] * seconds[c]``.

    `demand`, `seconds` (C,) and `supply`, `provider` (O,) are int64; `price` int64 and `eligible` bool are C arrays of
    shape (O,), the same objects where they are equal. `slots` is how many units a provider takes over all its offers
    (None: unbounded). A greater `priority` goes first. Where eligible, prices are at least 0. `hint` (int64, (O,), at
    least 0) is about what one unit of each offer is worth (µUSD · s per hour), where somebody knows: the search begins
    there. The answer's proof and bounds do not rest on it.
    """

    demand: IntVector
    priority: tuple[int, ...]
    seconds: IntVector
    price: Sequence[IntVector]
    eligible: Sequence[BoolVector]
    supply: IntVector
    provider: IntVector
    slots: tuple[int | None, ...]
    hint: IntVector | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Who takes what, and what is proven of it. Costs and prices are in µUSD · s per hour.

    `rows`, `offers`, `units` list the pairs with at least one unit, by (row, offer). `most` is at least what any
    assignment places, `floor` at most what placing as many units of each priority level costs; `certified` says that
    both are reached. `prices` (O,) is what one unit at the offer, with its provider's lease slot, is worth.
    """

    rows: IntVector
    offers: IntVector
    units: IntVector
    placed: int
    most: int
    cost: int
    floor: int
    certified: bool
    rounds: int
    prices: IntVector
    clearing: Clearing | None = None


class Rearrangement:
    """A flow on the pairs `rows`, `offers` with `units`, and how to let more in. `net` has offers for columns."""

    def __init__(self, t: Transport, net: FlowNetwork, rows: IntVector, offers: IntVector, units: IntVector) -> None:
        self._t, self._net = t, net
        self.rows, self.offers, self.units = rows, offers, units.copy()
        self._waits = t.demand - summed(rows, units, len(t.demand))
        self._left = t.supply - summed(offers, units, len(t.supply))
        capped = net.group[offers] != UNCAPPED
        used = summed(net.group[offers][capped], units[capped], len(net.caps))
        # The last entry stands for offers without a cap: index -1.
        self._caps_left = np.append(net.caps - used, np.iinfo(np.int64).max)
        self._priority = np.array(t.priority, dtype=np.int64)
        self._by = np.zeros(len(t.supply), dtype=np.int64)
        self._door = np.zeros(len(t.supply), dtype=np.int64)
        self._via = np.zeros(len(t.demand), dtype=np.int64)
        self.full: BoolVector = np.zeros(len(t.supply), dtype=np.bool_)

    def let_in(self, chains: int) -> bool:
        """Place all that can be placed, the highest priority first; False if that takes more chains than these.

        After it `full` (O,) are the offers of the cut behind which units wait.
        """
        for level in np.unique(self._priority)[::-1].tolist():
            while True:
                ask = np.flatnonzero((self._waits > 0) & (self._priority == level)).tolist()
                found = self._search(ask, level)
                if found is None:
                    break
                if not chains:
                    return False
                chains -= 1
                self._push(*found)
        self._search(np.flatnonzero(self._waits > 0).tolist(), None)
        return True

    def _search(self, ask: list[int], level: int | None) -> tuple[int, int, int] | None:
        """The end of a shortest chain: (class, offer it goes to, -1) or (-1, -1, pair that gives way); else None."""
        queue = list(ask)
        reached = np.zeros(len(self._waits), dtype=np.bool_)
        reached[queue] = True
        self.full = np.zeros(len(self._left), dtype=np.bool_)
        self._door = np.full(len(self._left), -1, dtype=np.int64)
        self._via[queue] = -1
        room = np.minimum(self._left, self._caps_left[self._net.group])
        held = np.flatnonzero(self.units > 0)
        held_rows, held_offers = self.rows[held], self.offers[held]
        for row in queue:
            fresh = np.flatnonzero(self._t.eligible[row] & ~self.full)
            if not len(fresh):
                continue
            self.full[fresh] = True
            self._by[fresh] = row
            free = fresh[room[fresh] > 0]
            if len(free):
                return row, int(free[np.argmin(self._t.price[row][free])]), -1
            self._open_doors(fresh)
            out = np.flatnonzero((self._door[held_offers] >= 0) & ~reached[held_rows])
            rows, at = np.unique(held_rows[out], return_index=True)
            reached[rows] = True
            self._via[rows] = held[out[at]]
            lower = rows[self._priority[rows] < level] if level is not None else rows[:0]
            if len(lower):
                return -1, -1, int(self._via[lower[np.argmin(self._priority[lower])]])
            queue += rows.tolist()
        return None

    def _open_doors(self, fresh: IntVector) -> None:
        """Which offers a unit may leave so that one can enter at a fresh one, and where that is: `door`."""
        self._door[fresh] = fresh
        slots = fresh[self._left[fresh] > 0]
        for offer in slots.tolist():
            others = (self._net.group == self._net.group[offer]) & (self._door < 0)
            self._door[others] = offer

    def _push(self, row: int, offer: int, gone: int) -> None:
        """As many units along the chain as all of its moves allow."""
        leave: list[int] = []
        enter: list[tuple[int, int]] = []
        if gone >= 0:
            leave.append(gone)
            offer = int(self._door[self.offers[gone]])
            row = int(self._by[offer])
        enter.append((row, offer))
        while self._via[row] >= 0:
            pair = int(self._via[row])
            leave.append(pair)
            offer = int(self._door[self.offers[pair]])
            row = int(self._by[offer])
            enter.append((row, offer))
        units = min(int(self._waits[row]), *(int(self.units[pair]) for pair in leave), self._room(enter, leave))
        self._waits[row] -= units
        for pair in leave:
            self.units[pair] -= units
            self._change(int(self.offers[pair]), units)
        if gone >= 0:
            self._waits[self.rows[gone]] += units
        for _, into in enter:
            self._change(into, -units)
        self.rows = np.append(self.rows, [each for each, _ in enter])
        self.offers = np.append(self.offers, [into for _, into in enter])
        self.units = np.append(self.units, np.full(len(enter), units))

    def _room(self, enter: list[tuple[int, int]], leave: list[int]) -> int:
        """How many units can go along: by the offers, and by the capped providers, that more enter than leave."""
        offers = Counter([offer for _, offer in enter])
        offers.subtract([int(self.offers[pair]) for pair in leave])
        groups: Counter[int] = Counter()
        for offer, more in offers.items():
            groups[int(self._net.group[offer])] += more
        room = [int(self._left[offer]) // more for offer, more in offers.items() if more > 0]
        room += [int(self._caps_left[group]) // more for group, more in groups.items() if more > 0]
        return min([*room, int(self._waits.sum())])

    def _change(self, offer: int, units: int) -> None:
        self._left[offer] += units
        if self._net.group[offer] != UNCAPPED:
            self._caps_left[self._net.group[offer]] += units


def plain_prices(problem: FlowProblem, pricing: Pricing, state: FlowState, idle: Idle) -> IntVector:
    """Optimal prices in plain costs, (O,), for a flow found with the last digit."""
    labels = _over_all_pairs(problem, pricing, state, idle, Residual.from_all, _forward)
    return labels.prices(problem.network(idle.room))[: len(problem.supply)]


def clearing(problem: FlowProblem, pricing: Pricing, state: FlowState, idle: Idle) -> Clearing:
    """The least and the greatest price of each offer over all optimal prices, in µUSD · s per hour.

    Least: what one more unit of the offer, with a lease slot of its own, would save. Greatest: what taking one away
    for somebody else costs the rest; UNBOUNDED if then fewer units of some level would find a place. At offers with
    nothing to sell both are the least. (Shortest paths from and to the sink: R. K. Ahuja, T. L. Magnanti, J. B. Orlin,
    FlowNetwork Flows, 1993, chapter 9.)
    """
    offers = len(problem.supply)
    below = _over_all_pairs(problem, pricing, state, idle, Residual.from_sink, _forward)
    above = _over_all_pairs(problem, pricing, state, idle, Residual.to_sink, _backward)
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
    problem: FlowProblem,
    pricing: Pricing,
    state: FlowState,
    idle: Idle,
    distances: Callable[[Residual], Labels],
    asked: Callable[[Labels, int], tuple[IntVector, IntVector]],
) -> Labels:
    """Distances in the residual graph of all pairs: those that would shorten one are added until there is none."""
    net = problem.network(idle.room)
    size = sizes(problem)
    arcs, units = arcs_of(problem, pricing.costs, state.pairs, idle), state.units
    while True:
        labels = distances(Residual(net, arcs, units))
        prices, limit = asked(labels, len(problem.supply))
        new = pricing.below(prices, limit, size)
        if not len(new):
            return labels
        costs = np.append(arcs.costs, costs_of(pricing.costs, new))
        arcs = Arcs(np.append(arcs.rows, new.rows), np.append(arcs.columns, new.offers), costs)
        units = np.append(units, np.zeros(len(new), dtype=np.int64))


ALL_PAIRS: Final = 65_536
"""Pairs up to which all of them are looked at from the start."""

FEW: Final = 16
"""Chains of moves after which a flow without costs is the quicker way to the greatest count."""


class FlowSolver:
    """One solve of one shard."""

    def __init__(self, t: Transport) -> None:
        self._t = t
        ranks = {each: rank for rank, each in enumerate(sorted(set(t.priority)), 1)}
        rank = np.array([ranks[each] for each in t.priority], dtype=np.int64)
        group, caps = groups_of(t)
        part = parts(t.eligible, tied(t, group))
        here, place = np.unique(part * (len(ranks) + 1) + rank, return_inverse=True)
        self.problem = FlowProblem(t.demand, rank, place, len(here), t.supply, group, caps)
        capped = group != UNCAPPED
        is_open = t.supply > 0
        is_open[capped] &= caps[group[capped]] > 0
        total = int(t.demand.sum())
        self._costs = scaled(t.seconds.tolist(), t.price, t.eligible, nodes=self.problem.nodes, units=total)
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
            full, counted = self._proven(
                free, pairs or self._pricing.pairs(), Idle(self.problem.waiting, self.problem.rank)
            )
            pairs = full.pairs
        idle = Idle(full.idle, np.zeros_like(self.problem.demand))
        if first_only:
            return self._first(flow_on(self.problem, self.plain.costs, pairs, idle), ())
        best, proven = self._proven(self._pricing, pairs, idle)
        prices = best.prices if self._costs.base == 1 else plain_prices(self.problem, self.plain, best, idle)
        flow = self._flow(best, prices)
        # Every last digit together is below the base, and what is above the ceiling only costs more.
        floor = best.value // self._costs.base * self._costs.unit if proven else 0
        found = clearing(self.problem, self.plain, best, idle) if intervals else None
        return replace(flow, floor=floor, certified=counted and floor == flow.cost, clearing=found)

    def _guessed(self) -> tuple[FlowState, IntVector]:
        """A flow that is nearly the cheapest, and the prices that led to it."""
        problem, pricing = self.problem, self.plain
        idle_cost, coarse = idle_costs(pricing.costs, problem)
        if self._t.hint is None:
            best = guess(pricing, problem, idle_cost, coarse)
        else:
            hint = np.clip(self._t.hint // min(pricing.costs.unit, MOST), 0, COST_RANGE)
            best = np.minimum(pricing.best(hint), idle_cost)
        prices = pricing.bids(best)
        pairs = nearby(pricing, prices, best, sizes(problem))
        self._rounds += 1
        return flow_on(problem, pricing.costs, pairs, Idle(problem.waiting, idle_cost), coarse), prices

    def _let_in(self, state: FlowState) -> FlowState | None:
        """The flow with all units let in that can be placed; None if it takes many moves to prove that."""
        if not state.idle.any():
            return state
        problem, sold = self.problem, state.sold
        units = state.units[: len(state.pairs)]
        aside = Rearrangement(self._t, problem.offers, sold.rows, sold.offers, units[units > 0])
        if not aside.let_in(FEW):
            return None
        pairs = state.pairs.with_(Pairs(aside.rows, aside.offers))
        units = pairs.summed(aside.rows, aside.offers, aside.units)
        waits = problem.demand - summed(pairs.rows, units, len(problem.demand))
        idle = summed(problem.place, waits, problem.places)
        return replace(state, pairs=pairs, units=np.append(units, waits), idle=idle)

    def _proven(self, pricing: Pricing, pairs: Pairs, idle: Idle) -> tuple[FlowState, bool]:
        """The cheapest flow over all pairs, with the proof: pairs below its prices are added until there is none."""
        problem = self.problem
        net = problem.network(idle.room)
        before: int | None = None
        while True:
            self._rounds += 1
            state = flow_on(problem, pricing.costs, pairs, idle)
            best = np.minimum(pricing.best(state.prices), state.known)
            if not (best < state.known)[problem.demand > 0].any():
                return state, bound(net, best, np.append(state.prices, state.idle_prices)) == state.value
            # While the cost falls, pairs far too dear may go; once it stands still all are kept, so that this ends.
            falls = before is None or state.value < before
            pairs = self._with_cheaper(pricing, state, best, state.sold if falls else state.pairs)
            if not falls and len(pairs) == len(state.pairs):
                raise FedGPUError(f"the prices of {len(pairs)} pairs are contradicted, and no pair is left to add")
            before = state.value

    def _with_cheaper(self, pricing: Pricing, state: FlowState, best: IntVector, kept: Pairs) -> Pairs:
        """The pairs `kept`, those that the prices of this flow contradict, and those that come near."""
        size = sizes(self.problem)
        over = int((state.known - best).max(where=self.problem.demand > 0, initial=0))
        limit = np.minimum(state.known + 2 * over, NEVER)
        near = pricing.below(pricing.bids(state.known), limit, size)
        return kept.with_(near.with_(pricing.below(state.prices, state.known, size)))

    def _first(self, state: FlowState, more: tuple[IntVector, ...]) -> Flow:
        """A flow that places all that can be placed, with the best bound that its prices and some `more` give."""
        pricing = self.plain
        asked = pricing.bids(state.known)
        tried = (state.prices, (state.prices + asked) // 2, asked, *more, *((asked + each) // 2 for each in more))
        floor = max(self._floor(pricing, state, prices) for prices in tried) * pricing.costs.unit
        flow = self._flow(state, state.prices)
        return replace(flow, floor=floor, certified=floor == flow.cost)

    def _floor(self, pricing: Pricing, state: FlowState, prices: IntVector) -> int:
        """What these prices prove that placing as many units of each level costs at least, in solver units."""
        problem, best = self.problem, pricing.best(prices)
        placed = problem.waiting - state.idle
        nobody = np.zeros_like(placed)
        capacity = worth(problem.network(nobody), np.append(prices, nobody))
        return filled(problem.demand, best, problem.place, placed) - capacity

    def _flow(self, state: FlowState, prices: IntVector) -> Flow:
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


def parts(eligible: Sequence[BoolVector], tied: IntVector) -> IntVector:
    """The component of each class, (C,), -1 for one without an offer."""
    label = labels(eligible, tied)
    home = {key: int(label[each.argmax()]) if each.any() else -1 for key, each in distinct(eligible).items()}
    return np.array([home[id(each)] for each in eligible], dtype=np.int64)


def labels(eligible: Sequence[BoolVector], tied: IntVector) -> IntVector:
    """The component of each offer, (O,), named by its least number."""
    label = tied.copy()
    merged = np.arange(int(tied.max(initial=0)) + 1)
    for mask in distinct(eligible).values():
        inside = label[mask]
        if len(inside) and inside.min() != inside.max():
            merged[:] = np.arange(len(merged))
            merged[inside] = inside.min()
            label = merged[label]
    return label


def distinct(eligible: Sequence[BoolVector]) -> dict[int, BoolVector]:
    return {id(each): each for each in eligible}
