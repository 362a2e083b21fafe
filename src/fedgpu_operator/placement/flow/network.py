"""The flow network of classes, offers and providers, and OR-Tools' answer for a list of arcs; no choice of arcs here.

Besides the offers of the market there is one idle place per priority level, where the units wait that nobody takes:
it is a column like any other, so every flow is balanced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.placement.problem import IntVector

UNCAPPED: Final = -1
"""The group of a column whose provider has room for whatever its offers hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
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


def units_on(net: Network, arcs: Arcs) -> IntVector:
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
