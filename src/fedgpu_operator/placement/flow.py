"""Single-GPU jobs by minimum-cost flow: an exact optimum over all pairs; nothing else is solved here.

The network is class of jobs → offer → provider → sink: an offer passes its free GPUs, a provider its lease slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.placement.asks import Ask, in_units
from fedgpu_operator.placement.book import Book, room
from fedgpu_operator.placement.judge import Option

COST_RANGE: Final = 2**60
"""OR-Tools multiplies unit costs by the number of nodes within 64 bits; below this product it never refuses."""

Vector = NDArray[np.int64]


def place_singles(asks: Sequence[Ask], book: Book) -> dict[str, int]:
    """Offer index by job uid, and the GPUs sold in `book`.

    As many jobs as can be, those of the highest priority first, then of the next, and so on; among all such
    assignments the least total effective cost; among those the least sum of offer indices, where 64 bits allow.
    """
    classes: dict[tuple[int, tuple[Option, ...]], list[str]] = {}
    for ask in sorted(asks, key=lambda each: (-each.priority, each.uid)):
        classes.setdefault((-ask.priority, ask.options), []).append(ask.uid)
    if not classes:
        return {}
    network = _Network(sorted(classes.items()), book)
    if not network.arcs:
        return {}
    placed: dict[str, int] = {}
    waiting = [list(uids) for _, uids in network.classes]
    for (row, offer), units in zip(network.arcs, network.solve(), strict=True):
        for uid in waiting[row][:units]:
            placed[uid] = offer
        del waiting[row][:units]
        book.add_singles(offer, units)
    return placed


class _Network:
    """Nodes: classes, then offers, then providers, then the sink, then one node per priority level."""

    def __init__(self, classes: list[tuple[tuple[int, tuple[Option, ...]], list[str]]], book: Book) -> None:
        self.classes = classes
        self._book = book
        self._sizes = [len(uids) for _, uids in classes]
        self._supply = [room(free, 1) for free in book.free]
        levels = sorted({level for (level, _), _ in classes})
        self._levels = len(levels)
        self._level_of = [levels.index(level) for (level, _), _ in classes]
        options = [
            (row, option)
            for row, ((_, options), _) in enumerate(classes)
            for option in options
            if self._supply[option.offer] and book.slots_left(option.offer) != 0
        ]
        self.arcs = [(row, option.offer) for row, option in options]
        self._costs = [option.cost for _, option in options]

    def solve(self) -> list[int]:
        """Jobs per arc of `arcs`."""
        nodes = len(self.classes) + len(self._supply) + len(self._book.providers) + 1 + self._levels
        costs = self._unit_costs(COST_RANGE // (nodes + 4))
        if self._levels == 1:
            return self._flows(costs, None)
        # Placeable sets of jobs form a matroid, so weights by rank of priority fill the levels in their order.
        by_rank = np.array([self._level_of[row] for row, _ in self.arcs], dtype=np.int64)
        quotas = [0] * self._levels
        for (row, _), units in zip(self.arcs, self._flows(by_rank, None), strict=True):
            quotas[self._level_of[row]] += units
        return self._flows(costs, quotas)

    def _unit_costs(self, ceiling: int) -> Vector:
        """Effective cost with the offer's index as the last digit, so that equal costs go by name."""
        base = sum(self._sizes) * len(self._supply) + 1
        exact = in_units(self._costs, ceiling)
        if max(exact) < ceiling // base - 1:
            exact = [cost * base + offer for cost, (_, offer) in zip(exact, self.arcs, strict=True)]
        return np.array(exact, dtype=np.int64)

    def _flows(self, costs: Vector, quotas: list[int] | None) -> list[int]:
        """Flow per arc: as much as possible at the least cost, or exactly `quotas` per priority level."""
        solver = SimpleMinCostFlow()
        first_offer = len(self.classes)
        first_provider = first_offer + len(self._supply)
        sink = first_provider + len(self._book.providers)
        rows = np.array([row for row, _ in self.arcs], dtype=np.int64)
        heads = np.array([offer + first_offer for _, offer in self.arcs], dtype=np.int64)
        sizes = np.array(self._sizes, dtype=np.int64)
        arcs = solver.add_arcs_with_capacity_and_unit_cost(rows, heads, sizes[rows], costs)
        total = sum(self._sizes)
        for offer, units in enumerate(self._supply):
            owner = first_provider + self._book.provider[offer]
            solver.add_arc_with_capacity_and_unit_cost(first_offer + offer, owner, min(units, total), 0)
        for provider, slots in enumerate(self._book.slots):
            units = total if slots is None else min(slots, total)
            solver.add_arc_with_capacity_and_unit_cost(first_provider + provider, sink, units, 0)
        if quotas is None:
            for row, size in enumerate(self._sizes):
                solver.set_node_supply(row, size)
            solver.set_node_supply(sink, -total)
            status = solver.solve_max_flow_with_min_cost()
        else:
            for row, size in enumerate(self._sizes):
                solver.add_arc_with_capacity_and_unit_cost(sink + 1 + self._level_of[row], row, size, 0)
            for level, quota in enumerate(quotas):
                solver.set_node_supply(sink + 1 + level, quota)
            solver.set_node_supply(sink, -sum(quotas))
            status = solver.solve()
        if status != solver.OPTIMAL:
            raise FedGPUError(f"the flow solver answered {status.name} for {len(self.arcs)} pairs")
        return [int(units) for units in solver.flows(arcs)]
