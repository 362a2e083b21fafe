"""GPUs as if they could be split: prices at which what all classes want is what the offers have, and their bound.

What is found here guides the search and proves bounds; nobody is placed here. The prices are those of a transport
problem with entropic smoothing, found by Bregman projections (Sinkhorn's algorithm with capacities): each class spreads
its GPUs over the offers by priced cost, each full offer becomes dearer by as much as it is over-asked, in turn and at
falling temperatures. Any prices >= 0 give a valid bound (weak duality), so precision costs nothing but tightness.
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

NEAR: Final = 150
"""Pairs per class that one look over all offers adds to the relaxation, unless more are asked for."""
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


class Balance:
    """The smoothed relaxation over a growing choice of pairs (group, offer).

    `demand` is how many jobs of each group are asked for. `outside` (per group, in the unit of the costs) is what a
    job left out costs; without it all must be placed, and the prices grow without end where they do not fit.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        demand: Sequence[int],
        shelf: Shelf,
        prices: Prices,
        outside: FloatVector | None = None,
        near: int = NEAR,
    ) -> None:
        self._width = near
        self.prices = prices
        self._groups = groups
        self._shelf = shelf
        self._outside = outside
        self._gpus = np.array([each.gpus for each in groups], dtype=np.float64)
        self._demand = np.array(demand, dtype=np.float64) * self._gpus
        self._chosen: list[BoolVector | None] = [None] * len(groups)
        self._noise: FloatVector = np.random.default_rng(0).gumbel(size=(shelf.nodes.shape[1],))
        self._twice = np.tile(self._noise, 2)
        self._chain = shelf.chain().astype(np.float64)
        self._whole = shelf.whole().astype(np.float64)
        self._unit = self._mean_cost()
        self.inside = np.array(demand, dtype=np.float64)

    def _mean_cost(self) -> float:
        typical = np.array([float(np.median(each.costs)) for each in self._groups]) if self._outside is None else 1.0
        spent = float((typical / self._gpus * self._demand).sum())
        return max(spent / max(float(self._demand.sum()), 1.0), 1e-9)

    def anneal(self, steps: Sequence[tuple[float, int]]) -> None:
        """For each (temperature as a share of the mean cost of a GPU, sweeps): look over all offers, then sweep."""
        if not self._demand.any():
            return
        for share, sweeps in steps:
            self._look(share * self._unit)
            self._sweep(share * self._unit, sweeps)

    def _look(self, temperature: float) -> None:
        """Adds the pairs that the smoothed flow would use, sampled by their share in it (Gumbel's trick)."""
        table = self.prices.per_gpu(self._shelf) / temperature
        whole = np.append(self._whole.ravel(), np.inf)
        asked = np.flatnonzero(self._demand)
        keys, costs = [], []
        for i in asked.tolist():
            group = self._groups[i]
            near = self._nearest(i, group, table[group.kind], temperature)
            key = group.offers[near] + group.kind * self._noise.size
            cost = group.costs[near] / group.gpus
            if self._outside is not None and np.isfinite(self._outside[i]):
                key = np.append(key, self._whole.size)
                cost = np.append(cost, self._outside[i] / group.gpus)
            keys.append(key)
            costs.append(cost)
        sizes = np.array([len(each) for each in keys])
        self._asked, self._who = asked, np.repeat(np.arange(len(asked)), sizes)
        self._starts = np.append(0, np.cumsum(sizes)[:-1])
        self._keys = np.concatenate(keys)
        held = np.minimum(whole[self._keys], self._demand[asked][self._who])
        self._score = (np.log(np.maximum(held, 1e-3)) - np.concatenate(costs) / temperature).astype(np.float32)

    def _nearest(self, i: int, group: Group, table: FloatVector, temperature: float) -> IntVector:
        if len(group.offers) <= self._width:
            return np.arange(len(group.offers))
        # One draw for all, shifted by class: what matters is that classes do not all look at the same offers.
        shift = 97 * i % self._noise.size
        score = (table - self._twice[shift : shift + self._noise.size])[group.offers]
        score += group.costs * (1 / (temperature * group.gpus))
        chosen = self._chosen[i]
        if chosen is None:
            chosen = self._chosen[i] = np.zeros(len(group.offers), dtype=bool)
        chosen[np.argpartition(score, self._width)[: self._width]] = True
        return np.flatnonzero(chosen)

    def _sweep(self, temperature: float, sweeps: int) -> None:
        """Single precision will do between projections: a score is off by far less than a sweep changes it."""
        starts, who, keys = self._starts, self._who, self._keys
        demand = self._demand[self._asked]
        units = np.zeros(len(who), dtype=np.float32)
        for _ in range(sweeps):
            priced = np.append(self.prices.per_gpu(self._shelf).ravel() / temperature, 0.0).astype(np.float32)
            share = self._score - priced[keys]
            share -= np.maximum.reduceat(share, starts)[who]
            np.exp(share, out=share)
            share *= (demand / np.add.reduceat(share, starts)).astype(np.float32)[who]
            units = share
            wanted = np.bincount(keys, weights=units, minlength=self._whole.size + 1)[:-1].astype(np.float64)
            self._project(wanted.reshape(self._whole.shape), temperature)
        inside = np.zeros(len(self._groups))
        inside[self._asked] = np.add.reduceat(np.where(keys < self._whole.size, units, 0.0), starts)
        self.inside = inside / self._gpus

    def _project(self, wanted: FloatVector, temperature: float) -> None:
        """Raises or lowers the price of each capacity, the innermost first, until what is wanted of it fits."""
        kinds = self._shelf.kinds
        last = len(kinds)
        for shape in range(len(self._shelf.shapes) - 1, -1, -1):
            first = next(i for i, kind in enumerate(kinds) if kind.gpus == self._shelf.shapes[shape])
            for kind in range(last - 1, first - 1, -1):
                _fit(self.prices.whole[kind], self._whole[kind], wanted[kind:last], temperature)
            last = first
            _fit(self.prices.chain[shape], self._chain[shape], wanted[first:], temperature)


def _fit(price: FloatVector, capacity: FloatVector, wanted: FloatVector, temperature: float) -> None:
    asked = np.maximum(wanted.sum(axis=0), 1e-9)
    change = np.maximum(-price, temperature * np.log(asked / np.maximum(capacity, 1e-9)))
    price += change
    wanted *= np.exp(-change / temperature)


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
