"""Jobs of one gang size as a transport problem: they are interchangeable to an offer, so one flow places them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.flow import Transport, transport
from fedgpu_operator.placement.flow.costs import COST_RANGE
from fedgpu_operator.placement.gangs.plan import (
    FloatVector,
    FreeNodes,
    GangClass,
    GangPlan,
    GangPrices,
    cost_floor,
    count_ceiling,
)
from fedgpu_operator.placement.problem import BoolVector, IntVector, Problem

COST_STEPS: Final = 2**30
"""Resolution of priced costs in the flow."""


def place_kind(plan: GangPlan, members: Sequence[int], most: Sequence[int], table: FloatVector) -> None:
    """Places up to `most` jobs of each of the groups `members`, all of one shape and number of replicas.

    About as many as can be at about the least priced cost: the flow's first answer, as no price here is exact.
    """
    first = plan.groups[members[0]]
    supply = plan.stock.room[first.shape] // first.replicas
    columns = np.flatnonzero((supply > 0) & plan.stock.open)
    if not len(columns):
        return
    column_of = np.full(len(supply), -1, dtype=np.int64)
    column_of[columns] = np.arange(len(columns))
    priced = [plan.groups[i].priced(table) for i in members]
    scale = COST_STEPS / max(max(float(each.max()) for each in priced), 1.0)
    price: list[IntVector] = []
    eligible: list[BoolVector] = []
    known: dict[int, tuple[IntVector, IntVector, BoolVector]] = {}
    for i, costs in zip(members, priced, strict=True):
        offers = plan.groups[i].offers
        if id(offers) not in known:
            there = column_of[offers]
            mask = np.zeros(len(columns), dtype=bool)
            mask[there[there >= 0]] = True
            known[id(offers)] = np.flatnonzero(there >= 0), there[there >= 0], mask
        kept, there, mask = known[id(offers)]
        row = np.zeros(len(columns), dtype=np.int64)
        row[there] = np.rint(costs[kept] * scale)
        price.append(row)
        eligible.append(mask)
    flow = transport(
        Transport(
            demand=np.array(most, dtype=np.int64),
            priority=(0,) * len(members),
            seconds=np.ones(len(members), dtype=np.int64),
            price=price,
            eligible=eligible,
            supply=supply[columns],
            provider=plan.stock.provider[columns],
            slots=tuple(plan.stock.slots),
        ),
        first_only=True,
    )
    for row, column, jobs in zip(flow.rows.tolist(), flow.offers.tolist(), flow.units.tolist(), strict=True):
        plan.add(members[row], int(columns[column]), jobs)


def place_singles(problem: Problem, plan: GangPlan, table: FloatVector) -> None:
    """Places all jobs of one GPU anew in what the others leave, by the first answer of one flow.

    It begins at the prices of `table` (µUSD · s per hour and replica, shape (kinds, offers)).
    """
    members = [i for i, each in enumerate(plan.groups) if each.gpus == 1]
    if not members:
        return
    for i in members:
        for offer, jobs in tuple(plan.flows[i].items()):
            # Where the rest cannot be laid anew they stay; the flow then places the others.
            plan.drop(i, offer, jobs)
    classes = [problem.classes[plan.groups[i].index] for i in members]
    flow = transport(
        Transport(
            demand=np.array([plan.left[i] for i in members], dtype=np.int64),
            priority=tuple(each.priority for each in classes),
            seconds=np.array([each.seconds for each in classes], dtype=np.int64),
            price=[each.price for each in classes],
            eligible=[each.eligible for each in classes],
            supply=plan.stock.room[plan.groups[members[0]].shape],
            provider=plan.stock.provider,
            slots=tuple(plan.stock.slots),
            hint=np.rint(np.minimum(table[plan.groups[members[0]].kind], COST_RANGE)).astype(np.int64),
        ),
        first_only=True,
    )
    for row, offer, jobs in zip(flow.rows.tolist(), flow.offers.tolist(), flow.units.tolist(), strict=True):
        plan.add(members[row], offer, jobs)


MANY: Final = 16
"""Jobs that one must let in to leave. For fewer a gang that is well placed would be given up for dear places."""


def make_way(plan: GangPlan, members: Sequence[int], table: FloatVector) -> None:
    """Places jobs of the groups `members`, all of one level, that wait; each job that leaves lets many in."""
    waiting = sorted((i for i in members if plan.left[i] >= MANY), key=lambda i: (plan.groups[i].gpus, i))
    if waiting:
        guests = _Guests(plan, members)
        for i in waiting:
            for offer in guests.in_turn(i, table):
                while plan.left[i] >= MANY and guests.swapped(i, offer):
                    pass
                if plan.left[i] < MANY:
                    break


class _Guests:
    """The gangs at each offer; `_largest` (int64, shape (offers,)) is the GPUs of the largest of them, 0 for none."""

    def __init__(self, plan: GangPlan, members: Sequence[int]) -> None:
        self._plan = plan
        self._at: dict[int, list[int]] = {}
        for i in sorted(members, key=lambda i: (plan.groups[i].gpus, i)):
            for offer in plan.flows[i] if plan.groups[i].gpus > 1 else ():
                self._at.setdefault(offer, []).append(i)
        self._largest = np.zeros(len(plan.stock.provider), dtype=np.int64)
        for offer, guests in self._at.items():
            self._largest[offer] = plan.groups[guests[-1]].gpus

    def in_turn(self, i: int, table: FloatVector) -> list[int]:
        """The offers where group i may be and so much larger jobs are: those of the largest first, then by cost."""
        group = self._plan.groups[i]
        largest = self._largest[group.offers]
        there = np.flatnonzero(largest >= MANY * group.gpus)
        if not len(there):
            return []
        ranked = np.lexsort((group.priced(table)[there], -largest[there]))
        offers: list[int] = group.offers[there[ranked]].tolist()
        return offers

    def swapped(self, i: int, offer: int) -> bool:
        """Whether a job of the largest gang there left for many of group i; else nothing is changed."""
        plan, guests = self._plan, self._at[offer]
        enough = MANY * plan.groups[i].gpus
        before = plan.stock.laid(offer)
        if not guests or plan.groups[guests[-1]].gpus < enough or not plan.drop(guests[-1], offer, 1):
            return False
        jobs = plan.fits(i, offer, plan.left[i])
        if jobs < MANY:
            plan.take_back(guests[-1], offer, before, 1)
            return False
        plan.add(i, offer, jobs)
        if offer not in plan.flows[guests[-1]]:
            guests.pop()
            self._largest[offer] = plan.groups[guests[-1]].gpus if guests else 0
        return True


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


COARSE: Final = (((0.5,), 20), ((0.2,), 20), ((0.1,), 20), ((0.05,), 20), ((0.02,), 20))
"""Looks and sweeps that find prices from nothing; temperatures are shares of the mean cost of a GPU."""
FINE: Final = (((0.5,), 20), ((0.2, 0.1), 20), ((0.05, 0.02), 20), ((0.01,), 20), ((0.003,), 20))
"""The same as far down as a tight bound needs."""
ADMIT: Final = (((0.2, 0.05), 15), ((0.02, 0.01), 15), ((0.004, 0.002), 15), ((0.001, 0.0005), 15))
"""Those that find how many jobs to admit, where only places count; shares of a job."""
SPARE: Final = 0.01
"""The share of a class's jobs that smoothing may seem to leave out though they fit."""
NEARLY: Final = 0.8
"""A gang size of which at least this share is admitted may place whichever of its jobs are cheapest."""
SHARE: Final = 0.02
"""A gang size of one level with at least this share of the GPUs asked for gets a flow; others are filled in."""
SINGLES: Final = 0.1
"""Jobs of one GPU with at least this share of all GPUs asked for get a flow of their own; others are filled in."""
HEAVIEST: Final = 8
"""Levels from the lowest one up that admission weighs apart; what is placed goes level by level in any case."""


class Large:
    """The search over one problem: `arrange` places, `polish` makes it cheaper, `most` and `floor` bound it."""

    def __init__(self, problem: Problem, plan: GangPlan) -> None:
        self._problem = problem
        self._plan = plan
        self._groups = plan.groups
        self._nodes = plan.nodes
        self._pairs = GangPairs(plan.groups, plan.nodes)
        self._prices = GangPrices(plan.nodes)
        self._counts = GangPrices(plan.nodes)
        self._levels = sorted({each.level for each in plan.groups})
        largest = max(each.gpus for each in plan.groups)
        # A job of a higher level outweighs all that it could displace below it, as far as doubles tell levels apart.
        self._weights = {level: float(2 * largest) ** min(rank, HEAVIEST) for rank, level in enumerate(self._levels)}

    def arrange(self) -> None:
        """By level: the admitted jobs of the largest shape and the largest gangs first; then what else fits.

        Singles of the lowest level come after its gangs; then, where they are many, all singles are placed anew.
        """
        plan, groups = self._plan, self._groups
        admitted = [
            min(each.jobs, int(np.ceil(jobs + SPARE * each.jobs)))
            for jobs, each in zip(self._inside(), groups, strict=True)
        ]
        Balance(self._pairs, admitted, self._prices).anneal(COARSE)
        table = self._prices.per_replica(self._nodes)
        order = sorted(range(len(groups)), key=lambda i: (-groups[i].level, *self._turn(groups[i]), i))
        for level, each in groupby(order, key=lambda i: groups[i].level):
            members = list(each)
            if level == self._levels[0]:
                self._place([i for i in members if groups[i].gpus > 1], admitted, table)
                if self._share([i for i in order if groups[i].gpus == 1], admitted) >= SINGLES:
                    place_singles(self._problem, plan, table)
            else:
                self._place(members, admitted, table)
            smallest = sorted(members, key=lambda i: (groups[i].gpus, i))
            for i in smallest:
                plan.fill(i, table)
            make_way(plan, members, table)
            for i in smallest:
                plan.fill(i, table)

    def polish(self, shares: Sequence[float]) -> None:
        """Moves jobs to cheaper places that are free, the longest runs first; prices count only by these shares."""
        longest = sorted(range(len(self._groups)), key=lambda i: (-self._groups[i].seconds, i))
        for share in shares:
            table = self._prices.per_replica(self._nodes) * share
            for i in longest:
                self._plan.cheaper(i, table)

    def most(self, counts: Sequence[int]) -> int:
        """At least as many jobs as any assignment places, level by level in their order.

        `counts` is how many jobs of each group are placed: a level is bounded beside as many jobs of those above it.
        """
        total = above = 0
        for level in reversed(self._levels):
            placed = sum(n for n, group in zip(counts, self._groups, strict=True) if group.level == level)
            prices = self._counts.scaled(1 / self._weights[level])
            total += max(placed, count_ceiling(self._groups, level, above, prices, self._nodes))
            above += placed
        return total

    def floor(self, counts: Sequence[int], steps: Steps) -> int:
        """At most what placing as many jobs of each class must cost."""
        prices = GangPrices(self._nodes)
        Balance(self._pairs, counts, prices).anneal(steps)
        return cost_floor(self._groups, counts, prices, self._nodes)

    def _turn(self, group: GangClass) -> tuple[bool, int, int]:
        """Who comes before others: the largest shape, as it needs nodes that are whole; then by GPUs in all."""
        return group.shape < len(self._nodes.shapes) - 1, -group.gpus, -group.shape

    def _inside(self) -> list[float]:
        """How many jobs of each group are placed by the relaxation that places the most, by level.

        Where only places count, groups of one size with the same offers are one.
        """
        alike: dict[tuple[int, int, int, int], list[int]] = {}
        for i, each in enumerate(self._groups):
            alike.setdefault((each.level, id(each.offers), each.kind, each.replicas), []).append(i)
        free = [_free([self._groups[i] for i in members]) for members in alike.values()]
        outside = np.array([self._weights[each.level] for each in free])
        balance = Balance(GangPairs(free, self._nodes, unit=1.0), [each.jobs for each in free], self._counts, outside)
        balance.anneal(ADMIT)
        inside = [0.0] * len(self._groups)
        for members, jobs, each in zip(alike.values(), balance.inside.tolist(), free, strict=True):
            for i in members:
                inside[i] = jobs * self._groups[i].jobs / each.jobs
        return inside

    def _place(self, members: Sequence[int], admitted: Sequence[int], table: FloatVector) -> None:
        plan = self._plan
        sizes = [list(each) for _, each in groupby(members, key=lambda i: _size(plan.groups[i]))]
        for each in sizes:
            most = [admitted[i] for i in each]
            if sum(most) >= NEARLY * sum(plan.left[i] for i in each):
                most = [plan.left[i] for i in each]
            if len(each) > 1 and self._share(each, admitted) >= SHARE:
                before = [plan.left[i] for i in each]
                place_kind(plan, each, most, table)
                # A first answer may leave some out that fit.
                most = [jobs - left + plan.left[i] for jobs, left, i in zip(most, before, each, strict=True)]
            for jobs, i in sorted(zip(most, each, strict=True), key=lambda pair: -plan.groups[pair[1]].seconds):
                plan.fill(i, table, jobs)

    def _share(self, members: Sequence[int], admitted: Sequence[int]) -> float:
        """The share of all admitted GPUs that these groups ask for."""
        asked = [each.gpus * jobs for each, jobs in zip(self._groups, admitted, strict=True)]
        return sum(asked[i] for i in members) / max(sum(asked), 1)


def _size(group: GangClass) -> tuple[int, int]:
    return group.shape, group.replicas


def _free(alike: Sequence[GangClass]) -> GangClass:
    """All jobs of these groups as one that pays nothing."""
    return replace(alike[0], jobs=sum(each.jobs for each in alike), costs=np.zeros(len(alike[0].offers)))
