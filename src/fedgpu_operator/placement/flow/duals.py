"""Prices that belong to a flow, by shortest paths in its residual graph, and the bound any prices prove; no solver."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from fedgpu_operator.placement.flow.costs import MOST
from fedgpu_operator.placement.flow.network import UNCAPPED, Arcs, Network, summed
from fedgpu_operator.placement.problem import IntVector

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

    def prices(self, net: Network) -> IntVector:
        """What one unit of each column is worth, (K,), at least 0: complementary to the flow the labels come from."""
        groups = np.minimum(self.groups, self.sink)
        owner = np.append(groups, self.sink)[net.group]
        prices: IntVector = self.sink - np.minimum(self.columns, owner)
        return prices


class Residual:
    """Where one unit more can go or come back from, and at which cost: tails, heads and lengths of its arcs."""

    def __init__(self, net: Network, arcs: Arcs, units: IntVector) -> None:
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
        return self._settled(np.zeros(self._nodes, dtype=np.int64), self._tails, self._heads)

    def from_sink(self) -> Labels:
        """Distances from the sink; not below REACHED where there is no way."""
        return self._settled(self._at_sink(), self._tails, self._heads)

    def to_sink(self) -> Labels:
        """Distances to the sink; not below REACHED where there is no way."""
        return self._settled(self._at_sink(), self._heads, self._tails)

    def _at_sink(self) -> IntVector:
        labels = np.full(self._nodes, FAR, dtype=np.int64)
        labels[-1] = 0
        return labels

    def _settled(self, labels: IntVector, tails: IntVector, heads: IntVector) -> Labels:
        """Bellman and Ford, all arcs at once: as many rounds as the longest of the shortest paths has arcs."""
        for _ in range(self._nodes + 1):
            before = labels.copy()
            np.minimum.at(labels, heads, labels[tails] + self._length)
            if np.array_equal(before, labels):
                return Labels(*np.split(labels, self._cuts))
        raise ValueError("the flow is not the cheapest on its arcs: its residual graph has a cycle of negative cost")


def worth(net: Network, prices: IntVector) -> int:
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


def bound(net: Network, best: IntVector, prices: IntVector) -> int:
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
