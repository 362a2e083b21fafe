"""GPUs as if they could be split: what the relaxation is made of, and the bounds that any prices prove (weak duality).

Where the prices come from is no matter here: the bounds hold for all that are >= 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.gangs.shapes import Shelf
from fedgpu_operator.placement.problem import BoolVector, IntVector, JobClass

FloatVector = NDArray[np.float64]

ROUNDING: Final = 1e-9
"""What sums of doubles may be off, as a share of the sum of their absolute values; far above what they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """One class of jobs as the relaxation sees it.

    `offers` (int64) are those that are eligible and hold all replicas at once, `costs` (float64, same shape) what one
    job costs there (µUSD · s per hour). `kind` indexes the shelf's kinds, `shape` its shapes.
    """

    index: int
    level: int
    jobs: int
    shape: int
    kind: int
    replicas: int
    gpus: int
    seconds: int
    offers: IntVector
    costs: FloatVector

    def priced(self, prices: FloatVector) -> FloatVector:
        """Cost of one job at each of `offers` with what its replicas take priced in."""
        paid: FloatVector = self.costs + self.replicas * prices[self.kind][self.offers]
        return paid


def groups_of(classes: Sequence[JobClass], shelf: Shelf, open_slots: BoolVector) -> list[Group]:
    """The classes that fit at some offer; those that fit nowhere are left out."""
    room = dict(zip(shelf.shapes, shelf.room(), strict=True))
    shape_of = {gpus: i for i, gpus in enumerate(shelf.shapes)}
    known: dict[tuple[int, int, int], IntVector] = {}
    found = []
    for index, each in enumerate(classes):
        key = (id(each.eligible), each.gpus, each.replicas)
        if key not in known:
            known[key] = np.flatnonzero(each.eligible & (room[each.gpus] >= each.replicas) & open_slots)
        offers = known[key]
        if each.size and len(offers):
            kind = shelf.kind_of(each.gpus, each.replicas)
            costs: FloatVector = each.price[offers].astype(np.float64) * each.seconds
            gpus = each.gpus * each.replicas
            shape = shape_of[each.gpus]
            found.append(
                Group(index, each.priority, each.size, shape, kind, each.replicas, gpus, each.seconds, offers, costs)
            )
    return found


class Prices:
    """Dual prices per GPU (>= 0) of each offer's two nested families of capacities.

    `chain` (shape (shapes, offers)): what a GPU costs every replica of this shape and larger ones. `whole` (shape
    (kinds, offers)): what it costs every gang of this kind and larger ones of its shape.
    """

    def __init__(self, shelf: Shelf) -> None:
        offers = shelf.nodes.shape[1]
        self.chain = np.zeros((len(shelf.shapes), offers))
        self.whole = np.zeros((len(shelf.kinds), offers))

    def scaled(self, factor: float) -> Prices:
        """Prices of their own, times `factor`."""
        twin = object.__new__(Prices)
        twin.chain, twin.whole = self.chain * factor, self.whole * factor
        return twin

    def per_gpu(self, shelf: Shelf) -> FloatVector:
        """What one GPU costs a gang of each kind: shape (kinds, offers)."""
        chain = np.cumsum(self.chain, axis=0)
        rows: list[FloatVector] = []
        for i, kind in enumerate(shelf.kinds):
            before = shelf.kinds[i - 1].gpus == kind.gpus if i else False
            gangs = self.whole[i] + (rows[-1] - chain[shelf.shapes.index(kind.gpus)] if before else 0.0)
            rows.append(chain[shelf.shapes.index(kind.gpus)] + gangs)
        return np.array(rows)

    def per_replica(self, shelf: Shelf) -> FloatVector:
        """What one replica of a gang of each kind costs: shape (kinds, offers)."""
        return self.per_gpu(shelf) * np.array([kind.gpus for kind in shelf.kinds], dtype=np.float64)[:, None]

    def worth(self, shelf: Shelf) -> FloatVector:
        """The most that what each offer holds can cost in all: shape (offers,)."""
        per_replica = np.cumsum(self.chain, axis=0) * np.array(shelf.shapes, dtype=np.float64)[:, None]
        total: FloatVector = shelf.worth(per_replica) + (self.whole * shelf.whole()).sum(axis=0)
        return total


def cost_floor(groups: Sequence[Group], counts: Sequence[int], prices: Prices, shelf: Shelf) -> int:
    """No assignment that places `counts` jobs of the groups costs less (µUSD · s per hour), whatever the prices.

    Lagrange: each job pays at least its cheapest priced cost, and what is paid for capacity is at most its worth.
    """
    table = prices.per_replica(shelf)
    paid = sum(count * float(group.priced(table).min()) for group, count in zip(groups, counts, strict=True) if count)
    worth = float(prices.worth(shelf).sum())
    free = sum(count * float(group.costs.min()) for group, count in zip(groups, counts, strict=True) if count)
    floors = [paid - worth - ROUNDING * (paid + worth), free * (1 - ROUNDING), 0.0]
    return int(max(floors))


def count_ceiling(groups: Sequence[Group], level: int, above: int, prices: Prices, shelf: Shelf) -> int:
    """No assignment that places `above` jobs of higher levels or more places more than this many of `level`.

    `prices` are in jobs per GPU, >= 0, else anything. Lagrange: jobs above take at least what the `above` cheapest of
    them need, a job of the level is left out or pays its cheapest place; what is paid is at most the capacity's worth.
    """
    table = prices.per_replica(shelf)
    least = [float(table[each.kind][each.offers].min()) * each.replicas for each in groups]
    paid, left = 0.0, above
    for need, jobs in sorted((need, each.jobs) for need, each in zip(least, groups, strict=True) if each.level > level):
        paid += need * min(jobs, left)
        left -= min(jobs, left)
    here = [(need, each.jobs) for need, each in zip(least, groups, strict=True) if each.level == level]
    paid += sum(min(1.0, need) * jobs for need, jobs in here)
    worth = float(prices.worth(shelf).sum())
    missing = paid - worth - ROUNDING * (paid + worth) - 1e-6
    return sum(jobs for _, jobs in here) - max(0, ceil(missing))
