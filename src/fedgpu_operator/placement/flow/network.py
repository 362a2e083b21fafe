"""The problem that flows run through: unit costs, prices, the network, and the bound that any prices prove."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.placement.flow.costs import MOST, NEVER, Costs
from fedgpu_operator.placement.problem import BoolVector, IntVector

UNCAPPED: Final = -1
"""The group of a column whose provider has room for whatever its offers hold."""


@dataclass(frozen=True, slots=True, eq=False)
class FlowNetwork:
    """Who asks, what there is, and how it hangs together.

    `demand` (C,) in units; `supply` (K,) per column: first the offers, then the idle places; `group` (K,) is the index
    into `caps` of the provider whose lease slots may bind, or UNCAPPED.
    """

    demand: IntVector
    supply: IntVector
    group: IntVector
    caps: IntVector

    @property
    def nodes(self) -> int:
        """How many nodes the solver sees."""
        return len(self.demand) + len(self.supply) + len(self.caps) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Arcs:
    """Pairs of class and column with their unit cost."""

    rows: IntVector
    columns: IntVector
    costs: IntVector

    def __len__(self) -> int:
        return len(self.rows)


def summed(index: IntVector, units: IntVector, length: int) -> IntVector:
    """`units` added up by `index`, exactly."""
    total = np.zeros(length, dtype=np.int64)
    np.add.at(total, index, units)
    return total


def units_on(net: FlowNetwork, arcs: Arcs) -> IntVector:
    """Units per arc at the least cost, all demand served: the idle places must have room for the rest."""
    first = len(net.demand)
    sink = net.nodes - 1
    total = int(net.demand.sum())
    solver = SimpleMinCostFlow()
    room = np.minimum(net.demand[arcs.rows], net.supply[arcs.columns])
    pairs = solver.add_arcs_with_capacity_and_unit_cost(arcs.rows, arcs.columns + first, room, arcs.costs)
    used = np.unique(arcs.columns)
    owner = np.where(net.group[used] == UNCAPPED, sink, net.group[used] + first + len(net.supply))
    _add(solver, used + first, owner, np.minimum(net.supply[used], total))
    groups = np.arange(first + len(net.supply), sink)
    _add(solver, groups, np.full_like(groups, sink), np.minimum(net.caps, total))
    solver.set_nodes_supplies(np.arange(first), net.demand)
    solver.set_node_supply(sink, -total)
    status = solver.solve()
    if status != solver.OPTIMAL:
        raise FedGPUError(f"the flow solver answered {status.name} for {len(arcs)} pairs")
    return np.asarray(solver.flows(pairs), dtype=np.int64)


def _add(solver: SimpleMinCostFlow, tails: IntVector, heads: IntVector, room: IntVector) -> None:
    solver.add_arcs_with_capacity_and_unit_cost(tails, heads, room, np.zeros(len(tails), dtype=np.int64))


NO_PAIRS: Final = np.zeros(0, dtype=np.int64)

RIVALS: Final = 4
"""Classes kept per offer: the cheapest one of each of so many parts of the classes."""

RANK: Final = 8
"""How far down a sampled row one looks for the cost that its nearest offers stay below."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of class and offer, sorted by (row, offer), each once."""

    rows: IntVector
    offers: IntVector

    def __len__(self) -> int:
        return len(self.rows)

    def with_(self, more: Pairs) -> Pairs:
        """Together with some more."""
        bits = int(max(self.offers.max(initial=0), more.offers.max(initial=0))).bit_length()
        keys = np.append(self._keys(bits), more._keys(bits))
        # Sorting beats numpy's own unique, which hashes; a stable sort merges two sorted runs in one go.
        keys.sort(kind="stable")
        keys = keys[np.append(keys[:-1] != keys[1:], True)] if len(keys) else keys
        # Shifts take a tenth of the time of a division.
        return Pairs(keys >> bits, keys & ((1 << bits) - 1))

    def summed(self, rows: IntVector, offers: IntVector, units: IntVector) -> IntVector:
        """Units at some of these pairs, in any order and repeatedly, added up for each pair."""
        bits = int(self.offers.max(initial=0)).bit_length()
        at = np.searchsorted(self._keys(bits), (rows << bits) | offers)
        return summed(at, units, len(self))

    def _keys(self, bits: int) -> IntVector:
        """One number per pair, in the order of (row, offer); `bits` hold the greatest offer."""
        return (self.rows << bits) | self.offers


@dataclass(frozen=True, slots=True, eq=False)
class Pricing:
    """All pairs of the classes with demand and the offers that are open; one row of costs is in memory at a time."""

    costs: Costs
    asking: IntVector
    open: BoolVector

    def count(self) -> int:
        """How many there are."""
        known: dict[int, int] = {}
        for row in self.asking.tolist():
            mask = self.costs.eligible[row]
            if id(mask) not in known:
                known[id(mask)] = int(np.count_nonzero(mask & self.open))
        return sum(known[id(self.costs.eligible[row])] for row in self.asking.tolist())

    def pairs(self) -> Pairs:
        """Every one of them."""
        offers = [np.flatnonzero(self.costs.eligible[row] & self.open) for row in self.asking.tolist()]
        return Pairs(np.repeat(self.asking, [len(each) for each in offers]), np.concatenate([NO_PAIRS, *offers]))

    def best(self, prices: IntVector) -> IntVector:
        """The least cost plus price of each class, (C,); NEVER for those that may go nowhere."""
        asked = np.where(self.open, prices, NEVER)
        best = np.full(len(self.costs.price), NEVER, dtype=np.int64)
        for row in self.asking.tolist():
            best[row] = (self.costs.row(row) + asked).min(initial=NEVER)
        return best

    def bids(self, best: IntVector) -> IntVector:
        """The least prices at which no class of these `best` finds an offer too cheap, (O,)."""
        prices = np.zeros(len(self.open), dtype=np.int64)
        for row in self.asking[best[self.asking] < NEVER].tolist():
            np.maximum(prices, best[row] - self.costs.row(row), out=prices)
        return prices

    def below(self, prices: IntVector, limit: IntVector, size: IntVector) -> Pairs:
        """The pairs whose cost plus price is below the class's `limit` (C,), of each class about `size` (C,)."""
        asked = np.where(self.open, prices, NEVER)
        limits, numbers = limit.tolist(), size.tolist()
        rows: list[int] = []
        found: list[IntVector] = []
        for row in self.asking[limit[self.asking] > -NEVER].tolist():
            total = self.costs.row(row) + asked
            if int(total.min(initial=NEVER)) < limits[row]:
                rows.append(row)
                found.append(lowest(row, total, limits[row], numbers[row]))
        each = np.repeat(np.array(rows, dtype=np.int64), [len(offers) for offers in found])
        return Pairs(each, np.concatenate([NO_PAIRS, *found]))

    def rivals(self, prices: IntVector, best: IntVector) -> Pairs:
        """For each open offer some classes that come nearest to their `best` there: the candidates to take it."""
        nearest = np.full((RIVALS, len(self.open)), NEVER // 2, dtype=np.int64)
        who = np.full((RIVALS, len(self.open)), -1, dtype=np.int64)
        for at, row in enumerate(self.asking[best[self.asking] < NEVER].tolist()):
            part = at % RIVALS
            over = self.costs.row(row) + (prices - int(best[row]))
            closer = over < nearest[part]
            np.copyto(nearest[part], over, where=closer)
            np.copyto(who[part], row, where=closer)
        parts, offers = np.nonzero((who >= 0) & self.open)
        return Pairs(NO_PAIRS, NO_PAIRS).with_(Pairs(who[parts, offers], offers))


def lowest(row: int, total: IntVector, limit: int, size: int) -> IntVector:
    """Where the row is below the limit, about the `size` lowest; the very lowest always."""
    stride = max(1, min(size, len(total)) // RANK)
    sample = total[row % stride :: stride]
    rank = min(len(sample) - 1, size // stride)
    near = min(int(np.partition(sample, rank)[rank]), limit - 1)
    found = np.flatnonzero(total <= near)
    if len(found) <= 2 * size:
        return found
    equal = total[found] == near
    ties = found[equal]
    step = max(1, len(ties) // size)
    return np.sort(np.append(found[~equal], ties[row % step :: step]))


FAR: Final = 2**62
"""Where a label starts that nothing has reached yet; real distances stay below 2⁶⁰, see `costs.COST_RANGE`."""

SHORTEST_RUN: Final = 32
"""Numbers below which adding them up one by one is as quick."""

REACHED: Final = 2**61
"""Labels below this were reached: the rest is FAR and a path of costs."""


class Labels(NamedTuple):
    """Distances along the residual graph: of classes (C,), columns (K,), capped providers (G,) and the sink (1,)."""

    rows: IntVector
    columns: IntVector
    groups: IntVector
    sink: IntVector

    def prices(self, net: FlowNetwork) -> IntVector:
        """What one unit of each column is worth, (K,), at least 0: complementary to the flow the labels come from."""
        groups = np.minimum(self.groups, self.sink)
        owner = np.append(groups, self.sink)[net.group]
        prices: IntVector = self.sink - np.minimum(self.columns, owner)
        return prices


class Residual:
    """Where one unit more can go or come back from, and at which cost: tails, heads and lengths of its arcs."""

    def __init__(self, net: FlowNetwork, arcs: Arcs, units: IntVector) -> None:
        first, last = len(net.demand), net.nodes - 1
        self._cuts = [first, first + len(net.supply), last]
        self._nodes = net.nodes
        columns = np.arange(first, first + len(net.supply))
        groups = np.arange(first + len(net.supply), last)
        used = summed(arcs.columns, units, len(net.supply))
        capped = net.group != UNCAPPED
        passed = summed(net.group[capped], used[capped], len(net.caps))
        owner = np.where(capped, net.group + first + len(net.supply), last)
        sinks = np.full(len(groups), last)
        back = units > 0
        free, full = used < net.supply, used > 0
        group_free, group_full = passed < net.caps, passed > 0
        into, out = arcs.rows, arcs.columns + first
        self._tails = _joined(into, out[back], columns[free], owner[full], groups[group_free], sinks[group_full])
        self._heads = _joined(out, into[back], owner[free], columns[full], sinks[group_free], groups[group_full])
        self._length = np.zeros(len(self._tails), dtype=np.int64)
        self._length[: len(arcs)] = arcs.costs
        self._length[len(arcs) : len(arcs) + int(back.sum())] = -arcs.costs[back]

    def from_all(self) -> Labels:
        """Distances from anywhere, at most 0: prices for every node."""
        return self._relaxed(np.zeros(self._nodes, dtype=np.int64), self._tails, self._heads)

    def from_sink(self) -> Labels:
        """Distances from the sink; not below REACHED if there is no way."""
        return self._relaxed(self._at_sink(), self._tails, self._heads)

    def to_sink(self) -> Labels:
        """Distances to the sink; not below REACHED if there is no way."""
        return self._relaxed(self._at_sink(), self._heads, self._tails)

    def _at_sink(self) -> IntVector:
        labels = np.full(self._nodes, FAR, dtype=np.int64)
        labels[-1] = 0
        return labels

    def _relaxed(self, labels: IntVector, tails: IntVector, heads: IntVector) -> Labels:
        """Bellman and Ford, all arcs at once: as many rounds as the longest of the shortest paths has arcs."""
        for _ in range(self._nodes + 1):
            before = labels.copy()
            np.minimum.at(labels, heads, labels[tails] + self._length)
            if np.array_equal(before, labels):
                return Labels(*np.split(labels, self._cuts))
        raise ValueError("the flow is not the cheapest on its arcs: its residual graph has a cycle of negative cost")


def worth(net: FlowNetwork, prices: IntVector) -> int:
    """What all capacity is worth at these prices: of a capped provider, its dearest units up to the cap."""
    paid = np.flatnonzero(prices > 0)
    straight = paid[net.group[paid] == UNCAPPED]
    total = product(net.supply[straight], prices[straight])
    capped = paid[net.group[paid] != UNCAPPED]
    capped = capped[np.lexsort((-prices[capped], net.group[capped]))]
    left = net.caps.tolist()
    groups, supply, each = net.group[capped].tolist(), net.supply[capped].tolist(), prices[capped].tolist()
    for group, units, price in zip(groups, supply, each, strict=True):
        sold = min(left[group], units)
        left[group] -= sold
        total += sold * price
    return total


def bound(net: FlowNetwork, best: IntVector, prices: IntVector) -> int:
    """What any flow of `net` costs at least, where `best` (C,) is each class's least cost plus price over all pairs."""
    return product(net.demand, best) - worth(net, prices)


def filled(demand: IntVector, best: IntVector, place: IntVector, units: IntVector) -> int:
    """The least sum of `best` (C,) over so many units (L,) of the demand of each place."""
    total, left = 0, units.tolist()
    order = np.lexsort((best, place))
    sizes, costs, places = demand[order].tolist(), best[order].tolist(), place[order].tolist()
    for size, cost, where in zip(sizes, costs, places, strict=True):
        taken = min(size, left[where])
        left[where] -= taken
        total += taken * cost
    return total


def product(left: IntVector, right: IntVector) -> int:
    """Their scalar product, exact beyond 64 bits: in runs so short that the sum of each fits."""
    largest = int(np.abs(left).max(initial=0)) * int(np.abs(right).max(initial=0))
    run = min(len(left), MOST // max(1, largest))
    if run < SHORTEST_RUN:
        return sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))
    return sum(int(left[at : at + run] @ right[at : at + run]) for at in range(0, len(left), run))


def _joined(*parts: IntVector) -> IntVector:
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class FlowProblem:
    """Who asks and what there is. `group` as in FlowNetwork.

    `rank` (C,) is the greater the higher the priority, from 1. `place` (C,) is where a class's units wait: there is one
    of the `places` for each priority in each part of the problem that shares nothing with the rest.
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
    def offers(self) -> FlowNetwork:
        """Its network without the idle places."""
        return FlowNetwork(self.demand, self.supply, self.group, self.caps)

    def network(self, room: IntVector) -> FlowNetwork:
        """Its network, with `room` (L,) for units that wait."""
        group = np.append(self.group, np.full(self.places, UNCAPPED))
        return FlowNetwork(self.demand, np.append(self.supply, room), group, self.caps)


@dataclass(frozen=True, slots=True, eq=False)
class Idle:
    """What each idle place holds, (L,), and what waiting there costs a unit of each class, (C,)."""

    room: IntVector
    cost: IntVector


@dataclass(frozen=True, slots=True, eq=False)
class FlowState:
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


def flow_on(problem: FlowProblem, costs: Costs, pairs: Pairs, idle: Idle, coarse: int = 1) -> FlowState:
    """The cheapest flow on `pairs` (sorted by row); all costs in steps of `coarse`, rounded down."""
    net = problem.network(idle.room)
    exact = arcs_of(problem, costs, pairs, idle)
    arcs = exact if coarse == 1 else replace(exact, costs=exact.costs // coarse)
    units = units_on(net, arcs)
    prices = Residual(net, arcs, units).from_all().prices(net) * coarse
    known = np.full(len(problem.demand), NEVER, dtype=np.int64)
    np.minimum.at(known, exact.rows, exact.costs + prices[exact.columns])
    split, offers = len(pairs), len(problem.supply)
    waiting = summed(problem.place, units[split:], problem.places)
    value = product(units[units > 0], exact.costs[units > 0])
    return FlowState(pairs, units, waiting, prices[:offers], prices[offers:], known, value)


def arcs_of(problem: FlowProblem, costs: Costs, pairs: Pairs, idle: Idle) -> Arcs:
    """The pairs as arcs, and after them each class's way to its idle place."""
    return Arcs(
        np.append(pairs.rows, np.arange(len(problem.demand))),
        np.append(pairs.offers, problem.place + len(problem.supply)),
        np.append(costs_of(costs, pairs), idle.cost),
    )


def costs_of(costs: Costs, pairs: Pairs) -> IntVector:
    """The cost of each pair (sorted by row)."""
    cuts = np.searchsorted(pairs.rows, np.arange(len(costs.price) + 1)).tolist()
    spans = pairwise(cuts)
    parts = [costs.at(row, pairs.offers[begin:end]) for row, (begin, end) in enumerate(spans) if begin < end]
    return np.concatenate([NO_PAIRS, *parts])
