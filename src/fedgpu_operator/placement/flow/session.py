"""A market that changes a little is not solved anew: what holds stays, the rest is placed at the known prices.

Nothing but the last solution is kept. Every answer states its bound; where that is not good enough, all is solved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fedgpu_operator.placement.flow.costs import NEVER, Costs, fits, highest
from fedgpu_operator.placement.flow.exact import Solver
from fedgpu_operator.placement.flow.pricing import Pairs
from fedgpu_operator.placement.flow.start import sizes
from fedgpu_operator.placement.flow.transport import transport
from fedgpu_operator.placement.flow.units import Flow, Transport
from fedgpu_operator.placement.flow.update import Kept, updated
from fedgpu_operator.placement.problem import BoolVector, IntVector

GAP: Final = 0.001
"""The share of the cost, and of the units, that may be unproven before an update solves fully."""

NEAR: Final = 30
"""Offers that are remembered for a class beyond those that its demand needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What became of the last market.

    `rows_were` (C,) and `offers_were` (O,): where each class and offer was in it, -1 for those that are new; a class
    with a price or eligibility rule of another kind is new. `changed` (O,): whether the offer's price or eligibility is
    another for anybody. Demand, supply and slots are compared by the session.
    """

    rows_were: IntVector
    offers_were: IntVector
    changed: BoolVector


class Session:
    """The last solution of one market, and how to go on from it."""

    def __init__(self, gap: float = GAP) -> None:
        self._gap = gap
        self._kept: Kept | None = None

    def solve(self, t: Transport) -> Flow:
        """The exact optimum, see `transport`; the next update starts from it."""
        flow = transport(t)
        solver = Solver(t)
        costs = solver.plain.costs
        whole = Costs(t.seconds.tolist(), t.price, t.eligible)
        high = highest(t.price)
        if fits(whole, solver.market.nodes, high):
            paid, pairs = solver.plain.best(flow.prices // costs.unit), Pairs(flow.rows, flow.offers)
            size = np.minimum(sizes(solver.market) + NEAR, len(t.supply))
            near = solver.plain.below(flow.prices // costs.unit, np.full(len(paid), NEVER), size)
            paid = np.where(paid < NEVER, paid * costs.unit, NEVER)
            # What is closed today may be open tomorrow: its price too must be one that no class finds too cheap.
            closed = replace(solver.plain, costs=whole).bids(paid)
            prices = np.where(solver.plain.open, flow.prices, closed)
            self._kept = Kept(t, high, replace(flow, prices=prices), paid, near.with_(pairs))
        else:
            self._kept = None
        return flow

    def update(self, t: Transport, change: Change) -> Flow:
        """A lawful flow for the changed market with its bounds; the exact optimum where those would be too loose."""
        kept = (
            None if self._kept is None else updated(self._kept, t, change.rows_were, change.offers_were, change.changed)
        )
        if kept is None or _unproven(kept.flow) > self._gap:
            return self.solve(t)
        self._kept = kept
        return kept.flow


def _unproven(flow: Flow) -> float:
    """The larger share of the cost and of the units that the bounds leave open."""
    cost = (flow.cost - flow.floor) / max(1, flow.cost)
    return max(cost, (flow.most - flow.placed) / max(1, flow.most))
