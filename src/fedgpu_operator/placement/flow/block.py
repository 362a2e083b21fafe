"""All classes beside a few offers: the same questions as in pricing.py, answered for many rows at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.flow.costs import NEVER, Costs, cut, highest
from fedgpu_operator.placement.flow.pricing import NO_PAIRS, Pairs, lowest
from fedgpu_operator.placement.problem import BoolVector, IntVector

CELLS: Final = 2**18
"""Pairs that are in memory at a time."""


class Block:
    """The pairs of all classes and these `offers` (K,), with costs in µUSD · s per hour (no last digit, no ceiling)."""

    def __init__(self, costs: Costs, offers: IntVector) -> None:
        everyone = np.arange(len(costs.price))
        self._offers = offers
        self._seconds = np.array(costs.seconds, dtype=np.int64)
        self._price: list[IntVector] = cut(costs.price, everyone, offers)
        self._eligible: list[BoolVector] = cut(costs.eligible, everyone, offers)

    @property
    def highest(self) -> int:
        """The greatest price there, eligible or not (µUSD per hour)."""
        return highest(self._price)

    def bids(self, best: IntVector) -> IntVector:
        """The least prices at which no class of these `best` (C,) finds an offer too cheap, (K,)."""
        prices = np.zeros(len(self._offers), dtype=np.int64)
        for rows, costs in self._blocks(np.flatnonzero(best < NEVER)):
            np.maximum(prices, (best[rows, None] - costs).max(axis=0, initial=0), out=prices)
        return prices

    def nearest(self, asking: IntVector, prices: IntVector, size: int) -> Pairs:
        """About the `size` pairs of each class with the least cost plus price (K,)."""
        rows: list[IntVector] = [NO_PAIRS]
        found: list[IntVector] = [NO_PAIRS]
        for part, totals in self._blocks(asking if len(prices) else NO_PAIRS):
            totals += prices
            rank = min(size, len(prices) - 1)
            near = np.minimum(np.partition(totals, rank, axis=1)[:, rank], NEVER - 1)
            at, columns = np.nonzero(totals <= near[:, None])
            # Where many are equally near, not all of them are taken.
            many = np.bincount(at, minlength=len(part)) > 2 * size
            rows.append(part[at[~many[at]]])
            found.append(columns[~many[at]])
            for i in np.flatnonzero(many).tolist():
                some = lowest(int(part[i]), totals[i], NEVER, size)
                rows.append(np.full(len(some), part[i]))
                found.append(some)
        return Pairs(NO_PAIRS, NO_PAIRS).with_(Pairs(np.concatenate(rows), self._offers[np.concatenate(found)]))

    def _blocks(self, rows: IntVector) -> Iterator[tuple[IntVector, NDArray[np.int64]]]:
        """Some of these classes at a time, and what one unit of each costs at each offer; shape (some, K)."""
        many = max(1, CELLS // max(1, len(self._offers)))
        for begin in range(0, len(rows), many):
            part = rows[begin : begin + many]
            costs = np.array([self._price[row] for row in part.tolist()]) * self._seconds[part, None]
            costs[~np.array([self._eligible[row] for row in part.tolist()])] = NEVER
            yield part, costs
