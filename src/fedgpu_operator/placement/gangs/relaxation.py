"""The relaxation of gangs: prices of nested capacities, the bounds that any prices prove, and how prices are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.gangs.nodes import FreeNodes
from fedgpu_operator.placement.problem import BoolVector, IntVector, JobClass

FloatVector = NDArray[np.float64]

ROUNDING: Final = 1e-9
"""What sums of doubles may be off, as a share of the sum of their absolute values; far above what they are."""


@dataclass(frozen=True, slots=True, eq=False)
class GangClass:
    """One class of jobs as the relaxation sees it.

    `offers` (int64) are those that are eligible and hold all replicas at once, `costs` (float64, same shape) what one
    job costs there (µUSD · s per hour). `kind` indexes the kinds of the free nodes, `shape` its shapes.
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


def gang_classes_of(classes: Sequence[JobClass], nodes: FreeNodes, open_slots: BoolVector) -> list[GangClass]:
    """The classes that fit at some offer; those that fit nowhere are left out."""
    room = dict(zip(nodes.shapes, nodes.room(), strict=True))
    shape_of = {gpus: i for i, gpus in enumerate(nodes.shapes)}
    known: dict[tuple[int, int, int], IntVector] = {}
    found = []
    for index, each in enumerate(classes):
        key = (id(each.eligible), each.gpus, each.replicas)
        if key not in known:
            known[key] = np.flatnonzero(each.eligible & (room[each.gpus] >= each.replicas) & open_slots)
        offers = known[key]
        if each.size and len(offers):
            kind = nodes.kind_of(each.gpus, each.replicas)
            costs: FloatVector = each.price[offers].astype(np.float64) * each.seconds
            gpus = each.gpus * each.replicas
            shape = shape_of[each.gpus]
            found.append(
                GangClass(
                    index, each.priority, each.size, shape, kind, each.replicas, gpus, each.seconds, offers, costs
                )
            )
    return found


class GangPrices:
    """Dual prices per GPU (>= 0) of each offer's two nested families of capacities.

    `chain` (shape (shapes, offers)): what a GPU costs every replica of this shape and larger ones. `whole` (shape
    (kinds, offers)): what it costs every gang of this kind and larger ones of its shape.
    """

    def __init__(self, nodes: FreeNodes) -> None:
        offers = nodes.counts.shape[1]
        self.chain = np.zeros((len(nodes.shapes), offers))
        self.whole = np.zeros((len(nodes.kinds), offers))

    def scaled(self, factor: float) -> GangPrices:
        """Prices of their own, times `factor`."""
        twin = object.__new__(GangPrices)
        twin.chain, twin.whole = self.chain * factor, self.whole * factor
        return twin

    def per_gpu(self, nodes: FreeNodes) -> FloatVector:
        """What one GPU costs a gang of each kind: shape (kinds, offers)."""
        chain = np.cumsum(self.chain, axis=0)
        rows: list[FloatVector] = []
        for i, kind in enumerate(nodes.kinds):
            before = nodes.kinds[i - 1].gpus == kind.gpus if i else False
            gangs = self.whole[i] + (rows[-1] - chain[nodes.shapes.index(kind.gpus)] if before else 0.0)
            rows.append(chain[nodes.shapes.index(kind.gpus)] + gangs)
        return np.array(rows)

    def per_replica(self, nodes: FreeNodes) -> FloatVector:
        """What one replica of a gang of each kind costs: shape (kinds, offers)."""
        return self.per_gpu(nodes) * np.array([kind.gpus for kind in nodes.kinds], dtype=np.float64)[:, None]

    def worth(self, nodes: FreeNodes) -> FloatVector:
        """The most that what each offer holds can cost in all: shape (offers,)."""
        per_replica = np.cumsum(self.chain, axis=0) * np.array(nodes.shapes, dtype=np.float64)[:, None]
        total: FloatVector = nodes.worth(per_replica) + (self.whole * nodes.whole()).sum(axis=0)
        return total


def cost_floor(groups: Sequence[GangClass], counts: Sequence[int], prices: GangPrices, nodes: FreeNodes) -> int:
    """No assignment that places `counts` jobs of the groups costs less (µUSD · s per hour), whatever the prices.

    Lagrange: each job pays at least its cheapest priced cost, and what is paid for capacity is at most its worth.
    """
    table = prices.per_replica(nodes)
    paid = sum(count * float(group.priced(table).min()) for group, count in zip(groups, counts, strict=True) if count)
    worth = float(prices.worth(nodes).sum())
    free = sum(count * float(group.costs.min()) for group, count in zip(groups, counts, strict=True) if count)
    floors = [paid - worth - ROUNDING * (paid + worth), free * (1 - ROUNDING), 0.0]
    return int(max(floors))


def count_ceiling(groups: Sequence[GangClass], level: int, above: int, prices: GangPrices, nodes: FreeNodes) -> int:
    """No assignment that places `above` jobs of higher levels or more places more than this many of `level`.

    `prices` are in jobs per GPU, >= 0, else anything. Lagrange: jobs above take at least what the `above` cheapest of
    them need, a job of the level is left out or pays its cheapest place; what is paid is at most the capacity's worth.
    """
    table = prices.per_replica(nodes)
    least = [float(table[each.kind][each.offers].min()) * each.replicas for each in groups]
    paid, left = 0.0, above
    for need, jobs in sorted((need, each.jobs) for need, each in zip(least, groups, strict=True) if each.level > level):
        paid += need * min(jobs, left)
        left -= min(jobs, left)
    here = [(need, each.jobs) for need, each in zip(least, groups, strict=True) if each.level == level]
    paid += sum(min(1.0, need) * jobs for need, jobs in here)
    worth = float(prices.worth(nodes).sum())
    missing = paid - worth - ROUNDING * (paid + worth) - 1e-6
    return sum(jobs for _, jobs in here) - max(0, ceil(missing))


Singles = NDArray[np.float32]
Steps = Sequence[tuple[Sequence[float], int]]
"""For each look over all offers: the temperatures that follow (shares of the unit), and the sweeps at each of them."""

NEAR: Final = 100
"""Pairs that each look adds for every class."""
ROOMY: Final = 8
"""Pairs that each look adds for every mean offer that a class would fill: large classes cannot do with the nearest."""
SAMPLE: Final = 4
"""Of the pairs of a class every so many-th tells where its nearest end."""
SAMPLED: Final = 256
"""Pairs from which on a sample will do."""
MOMENTUM: Final = 0.9
"""The share of a price's last move that is added to its next one, for as long as it goes the same way."""
LEAST: Final = np.float32(1e-9)
"""What counts as nothing wanted or nothing there, in GPUs."""


class GangPairs:
    """All pairs (group, offer) in single precision; every solve of the relaxation looks at the same ones.

    `unit` is what costs and prices are measured in: the mean cost of a GPU unless given. `costs[i]` (float32, shape of
    the group's offers) are per GPU, `held[i]` the logarithm of how many GPUs of an offer the group's kind can use, and
    `mean[i]` how many that are at its mean offer.
    """

    def __init__(self, groups: Sequence[GangClass], nodes: FreeNodes, unit: float | None = None) -> None:
        self.groups = groups
        self.nodes = nodes
        self.whole: Singles = nodes.whole().astype(np.float32)
        self.chain: Singles = nodes.chain().astype(np.float32)
        self.unit = _mean_cost(groups) if unit is None else unit
        self.costs: list[Singles] = [(each.costs * (1 / (each.gpus * self.unit))).astype(np.float32) for each in groups]
        usable = [self.whole[each.kind][each.offers] for each in groups]
        self.held: list[Singles] = [np.log(np.maximum(each, np.float32(1e-3))) for each in usable]
        self.mean = np.array([float(each.mean()) for each in usable])
        self.noise: Singles = np.random.default_rng(0).gumbel(size=2 * nodes.counts.shape[1]).astype(np.float32)


class Balance:
    """The smoothed relaxation over a growing choice of pairs.

    `demand` is how many jobs of each group are asked for. `outside` (per group, in the unit of the costs) is what a
    job left out costs; without it all must be placed, and the prices grow without end where they do not fit. `prices`
    are where it starts, and become what it finds. `inside` is how many jobs of each group it places.
    """

    def __init__(
        self, pairs: GangPairs, demand: Sequence[float], prices: GangPrices, outside: FloatVector | None = None
    ) -> None:
        self._pairs = pairs
        self._prices = prices
        self._asked = [i for i, jobs in enumerate(demand) if jobs]
        gpus = np.array([each.gpus for each in pairs.groups], dtype=np.float64)
        wanted = np.array(demand, dtype=np.float64) * gpus
        self._gpus = gpus[self._asked]
        self._demand: Singles = wanted[self._asked].astype(np.float32)
        self._most: Singles = np.log(np.maximum(wanted, 1e-3)).astype(np.float32)
        self._near = (NEAR + ROOMY * wanted / np.clip(pairs.mean, 1.0, np.maximum(wanted, 1.0))).astype(np.int64)
        self._outside: Singles | None = None if outside is None else np.minimum(outside / gpus, 1e30).astype(np.float32)
        self._capacities = _Capacities(pairs, prices)
        self._chosen: list[BoolVector | None] = [None] * len(pairs.groups)
        self.inside = np.array(demand, dtype=np.float64)

    def anneal(self, steps: Steps) -> None:
        """Look over all offers, then sweep at each temperature of the step; all steps in turn."""
        if not self._asked:
            return
        for temperatures, sweeps in steps:
            self._look(temperatures[0])
            for temperature in temperatures:
                self._sweep(temperature, sweeps)
        self._capacities.write(self._prices, self._pairs.unit)

    def _look(self, temperature: float) -> None:
        """Adds the pairs that the smoothed flow would use, drawn by their share in it (Gumbel's trick)."""
        table = self._capacities.per_gpu(temperature)
        nowhere = np.array([self._capacities.size], dtype=np.int64)
        keys, costs, held, sizes = [], [], [], []
        for i in self._asked:
            group = self._pairs.groups[i]
            first = group.kind * self._capacities.offers
            pick = self._near_ones(i, group, table[first:], temperature)
            keys.append(group.offers[pick] + first)
            costs.append(self._pairs.costs[i][pick])
            held.append(np.minimum(self._pairs.held[i][pick], self._most[i]))
            if self._outside is not None:
                keys.append(nowhere)
                costs.append(self._outside[i : i + 1])
                held.append(self._most[i : i + 1])
            sizes.append(len(pick) + (self._outside is not None))
        self._sizes = np.array(sizes)
        self._starts = np.append(0, np.cumsum(self._sizes)[:-1])
        self._keys, self._cost, self._held = np.concatenate(keys), np.concatenate(costs), np.concatenate(held)

    def _near_ones(self, i: int, group: GangClass, table: Singles, temperature: float) -> IntVector:
        """Which of the group's offers are looked at: those drawn now and before."""
        near, count = int(self._near[i]), len(group.offers)
        if count <= near:
            return np.arange(count)
        score = self._pairs.costs[i] * np.float32(-1 / temperature)
        score += np.minimum(self._pairs.held[i], self._most[i])
        score -= table[group.offers]
        # One draw for all, shifted by class: what matters is that classes do not all look at the same offers.
        shift = 97 * i % self._capacities.offers
        score += self._pairs.noise[shift : shift + count]
        some = score[::SAMPLE] if count >= SAMPLED else score
        rank = len(some) - max(near * len(some) // count, 1)
        drawn: BoolVector = score >= np.partition(some, rank)[rank]
        before = self._chosen[i]
        self._chosen[i] = drawn = drawn if before is None else drawn | before
        return np.flatnonzero(drawn)

    def _sweep(self, temperature: float, sweeps: int) -> None:
        """Turns of spreading the demand by price and of moving the prices to where it fits."""
        starts, sizes, keys, capacities = self._starts, self._sizes, self._keys, self._capacities
        score = self._held - self._cost * np.float32(1 / temperature)
        units = np.zeros(len(keys), dtype=np.float32)
        capacities.halt()
        for _ in range(sweeps):
            units = score - capacities.per_gpu(temperature)[keys]
            units -= np.repeat(np.maximum.reduceat(units, starts), sizes)
            np.exp(units, out=units)
            units *= np.repeat(self._demand / np.add.reduceat(units, starts), sizes)
            wanted = np.bincount(keys, weights=units, minlength=capacities.size + 1).astype(np.float32)
            capacities.project(wanted, temperature)
        inside = np.add.reduceat(np.where(keys < capacities.size, units, np.float32(0.0)), starts)
        self.inside[self._asked] = inside / self._gpus


class _Capacities:
    """Capacities and prices of the offers, `size` pairs (kind, offer) of them; prices in the unit of the pairs."""

    def __init__(self, pairs: GangPairs, prices: GangPrices) -> None:
        self.offers = pairs.nodes.counts.shape[1]
        self.size = pairs.whole.size
        self._capacity = pairs.whole, pairs.chain
        self._price: tuple[Singles, Singles] = (
            (prices.whole / pairs.unit).astype(np.float32),
            (prices.chain / pairs.unit).astype(np.float32),
        )
        self._moved = np.zeros_like(pairs.whole), np.zeros_like(pairs.chain)
        sizes = [kind.gpus for kind in pairs.nodes.kinds]
        self._kinds = [[k for k, gpus in enumerate(sizes) if gpus == shape] for shape in pairs.nodes.shapes]
        self._table: Singles = np.zeros(self.size + 1, dtype=np.float32)

    def write(self, prices: GangPrices, unit: float) -> None:
        """Hands out the prices in the unit of the costs."""
        prices.whole[:], prices.chain[:] = (each * np.float64(unit) for each in self._price)

    def per_gpu(self, temperature: float) -> Singles:
        """What a GPU costs each kind at each offer, by temperature: flat, shape (kinds × offers + 1,); last nothing."""
        table = self._table[:-1].reshape(-1, self.offers)
        whole, chain = self._price
        base = np.zeros(self.offers, dtype=np.float32)
        for shape, kinds in enumerate(self._kinds):
            base = base + chain[shape]
            below = base
            for kind in kinds:
                np.add(whole[kind], below, out=table[kind])
                below = table[kind]
        table *= np.float32(1 / temperature)
        return self._table

    def halt(self) -> None:
        """Forgets the moves made so far."""
        for each in self._moved:
            each[:] = 0.0

    def project(self, wanted: Singles, temperature: float) -> None:
        """Moves the price of each capacity, the innermost first, to where what is wanted of it fits, and farther.

        `wanted` is flat as `per_gpu` is, in GPUs.
        """
        asked = wanted[:-1].reshape(-1, self.offers)
        (whole, chain), (whole_price, chain_price) = self._capacity, self._price
        before = whole_price.copy(), chain_price.copy()
        larger = np.zeros(self.offers, dtype=np.float32)
        for shape in range(len(self._kinds) - 1, -1, -1):
            gangs = np.zeros(self.offers, dtype=np.float32)
            for kind in reversed(self._kinds[shape]):
                gangs = _fitted(whole_price[kind], whole[kind], gangs + asked[kind], temperature)
            larger = _fitted(chain_price[shape], chain[shape], larger + gangs, temperature)
        for price, old, moved in zip(self._price, before, self._moved, strict=True):
            step = price - old
            moved *= moved * step > 0.0
            moved *= np.float32(MOMENTUM)
            moved += step
            np.maximum(old + moved, np.float32(0.0), out=price)
            np.subtract(price, old, out=moved)


def _fitted(price: Singles, capacity: Singles, asked: Singles, temperature: float) -> Singles:
    """Moves each price to where `asked` fits; how much is asked then."""
    change: Singles = np.maximum(asked, LEAST)
    change /= np.maximum(capacity, LEAST)
    np.log(change, out=change)
    change *= np.float32(temperature)
    np.maximum(change, -price, out=change)
    price += change
    change *= np.float32(-1 / temperature)
    np.exp(change, out=change)
    change *= asked
    return change


def _mean_cost(groups: Sequence[GangClass]) -> float:
    """What a GPU costs a job at its mean offer, over all jobs."""
    spent = sum(each.jobs * float(each.costs.mean()) for each in groups)
    return max(spent / max(sum(each.jobs * each.gpus for each in groups), 1), 1e-9)
