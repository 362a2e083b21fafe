"""What nodes and offers hold of each size of replica and gang, as arrays over offers; no job and no price."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.book import Histogram, room
from fedgpu_operator.placement.problem import BoolVector, IntVector, JobClass, Problem

EXACT_SIZES: Final = 8
"""Gang sizes of one shape that are told apart exactly; where there are more, powers of two bound them."""
LARGEST_ROOM: Final = 2_048
"""Replicas at one offer above which every number of them counts as reachable."""


class GangKind(NamedTuple):
    """Gangs alike to an offer: GPUs per replica, and at least so many replicas (less than the next kind's)."""

    gpus: int
    replicas: int


@dataclass(frozen=True, slots=True, eq=False)
class FreeNodes:
    """The free nodes of all offers by how many GPUs are free on them, and who asks for what size.

    `sizes` (ascending) are the numbers of free GPUs that occur, `counts` (int64, shape (sizes, offers)) how many nodes
    have them, `shapes` (ascending) the GPUs per replica that somebody asks for, `kinds` (ascending) the gang sizes.
    """

    sizes: tuple[int, ...]
    counts: IntVector
    shapes: tuple[int, ...]
    kinds: tuple[GangKind, ...]
    gangs: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, free: Sequence[Histogram], gangs: Iterable[tuple[int, int]]) -> FreeNodes:
        """Columns from histograms, for gangs of (GPUs per replica, replicas)."""
        sizes = sorted({gpus for each in free for gpus, nodes in each.items() if gpus > 0 and nodes > 0})
        row = {gpus: i for i, gpus in enumerate(sizes)}
        counts = np.zeros((len(sizes), len(free)), dtype=np.int64)
        for offer, each in enumerate(free):
            for gpus, count in each.items():
                if gpus > 0 and count > 0:
                    counts[row[gpus], offer] = count
        asked = frozenset(gangs)
        shapes = tuple(sorted({gpus for gpus, _ in asked}))
        return cls(tuple(sizes), counts, shapes, _kinds(asked), asked)

    def kind_of(self, gpus: int, replicas: int) -> int:
        """Index of the kind that such a gang belongs to."""
        return max(i for i, kind in enumerate(self.kinds) if kind.gpus == gpus and kind.replicas <= replicas)

    def room(self) -> IntVector:
        """How many replicas of each shape fit if nothing else comes: int64, shape (shapes, offers)."""
        return self._weighed([[gpus // shape for gpus in self.sizes] for shape in self.shapes])

    def chain(self) -> IntVector:
        """How many GPUs replicas of this shape and larger ones can use together: int64, shape (shapes, offers)."""
        return self._weighed([self._fullest(self.shapes[i:]) for i in range(len(self.shapes))])

    def whole(self) -> IntVector:
        """How many GPUs gangs of this kind and larger ones of its shape can use: int64, shape (kinds, offers).

        Gangs come whole to one offer: of room for 15 replicas, gangs of 8 use 8, gangs of 8 and 4 use 12.
        """
        room = dict(zip(self.shapes, self.room(), strict=True))
        rows = []
        for kind in self.kinds:
            parts = sorted({size for gpus, size in self.gangs if gpus == kind.gpus and size >= kind.replicas})
            table = _reachable(parts, min(int(room[kind.gpus].max(initial=0)), LARGEST_ROOM))
            here = room[kind.gpus]
            rows.append(np.where(here < len(table), table[np.minimum(here, len(table) - 1)], here) * kind.gpus)
        return np.array(rows, dtype=np.int64).reshape(len(self.kinds), self.counts.shape[1])

    def worth(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """The most that each offer's free nodes can be worth: shape (offers,).

        `prices` (shape (shapes, offers), >= 0) are per replica. Each node is filled by the best multiset of shapes
        that fits (an unbounded knapsack), which bounds whatever is really put there.
        """
        total = np.zeros(self.counts.shape[1])
        # Only as many sizes back as the largest shape reaches: nodes may have thousands of GPUs.
        best = deque([total], maxlen=max(self.shapes, default=1))
        where = {gpus: i for i, gpus in enumerate(self.sizes)}
        for gpus in range(1, self._largest + 1):
            value = best[-1]
            for i, shape in enumerate(self.shapes):
                if shape > gpus:
                    break
                value = np.maximum(value, best[-shape] + prices[i])
            best.append(value)
            if gpus in where:
                total = total + self.counts[where[gpus]] * value
        return total

    @property
    def _largest(self) -> int:
        return self.sizes[-1] if self.sizes else 0

    def _fullest(self, shapes: Sequence[int]) -> list[int]:
        """The most GPUs of a node of each size that these shapes can use."""
        table = _reachable(shapes, self._largest)
        return [int(table[gpus]) for gpus in self.sizes]

    def _weighed(self, weights: Sequence[Sequence[int]]) -> IntVector:
        table = np.array(weights, dtype=np.int64).reshape(len(self.shapes), len(self.sizes))
        return table @ self.counts


def _kinds(gangs: frozenset[tuple[int, int]]) -> tuple[GangKind, ...]:
    kinds = []
    for gpus in sorted({gpus for gpus, _ in gangs}):
        sizes = sorted({replicas for each, replicas in gangs if each == gpus})
        if len(sizes) > EXACT_SIZES:
            sizes = sorted({1 << (replicas.bit_length() - 1) for replicas in sizes})
        kinds += [GangKind(gpus, replicas) for replicas in sizes]
    return tuple(kinds)


def _reachable(parts: Sequence[int], largest: int) -> IntVector:
    """For every number up to `largest`, the greatest sum of parts (each any number of times) that is not above it."""
    best = [0] * (largest + 1)
    for number in range(1, largest + 1):
        best[number] = max([best[number - 1], *(best[number - part] + part for part in parts if part <= number)])
    return np.array(best, dtype=np.int64)


Laid = tuple[dict[int, int], dict[int, int]]
"""Replicas of each size at an offer, and what is left of its nodes."""


def packed(free: Histogram, loads: Iterable[tuple[int, int]]) -> dict[int, int] | None:
    """What is left after so many replicas of so many GPUs, (GPUs, replicas) in this order; None if they do not fit.

    Each replica goes to the fullest node that still holds it; as many nodes as possible are filled in one step.
    """
    left = dict(free)
    for gpus, count in loads:
        while count:
            node = 0
            for each in left:
                if each >= gpus and (each < node or not node):
                    node = each
            if not node:
                return None
            per_node = node // gpus
            nodes, used = (min(left[node], count // per_node), per_node) if count >= per_node else (1, count)
            left[node] -= nodes
            if not left[node]:
                del left[node]
            if node > used * gpus:
                rest = node - used * gpus
                left[rest] = left.get(rest, 0) + nodes
            count -= nodes * used
    return left


class NodeStock:
    """Free GPUs per offer and lease slots per provider; what was sold may be given back.

    `room` (int64, shape (shapes, offers)) is how many replicas of each shape still fit, `open` (bool, shape
    (offers,)) whether the provider has a lease slot left.
    """

    def __init__(self, problem: Problem, nodes: FreeNodes) -> None:
        self._base = [{gpus: n for gpus, n in each.items() if gpus > 0 and n > 0} for each in problem.free]
        self.free: list[dict[int, int]] = [dict(each) for each in self._base]
        self._loads: list[dict[int, int]] = [{} for _ in self._base]
        self._shapes = nodes.shapes
        self.provider = problem.provider
        self._home = problem.provider.tolist()
        self.slots = [None if each is None else max(0, each) for each in problem.slots]
        self.room: IntVector = nodes.room()
        self.open: BoolVector = np.array([each != 0 for each in self.slots], dtype=bool)[problem.provider]

    def fits(self, offer: int, gpus: int, replicas: int, most: int) -> int:
        """How many gangs of `replicas` × `gpus` fit, up to `most`."""
        jobs = room(self.free[offer], gpus) // replicas
        slots = self.slots[self._home[offer]]
        return min(jobs, most) if slots is None else min(jobs, most, slots)

    def sell(self, offer: int, gpus: int, replicas: int, jobs: int) -> bool:
        """Takes them, laying all there anew where that makes room; False and nothing changed where it does not."""
        slots = self.slots[self._home[offer]]
        if slots is not None and slots < jobs:
            return False
        loads = dict(self._loads[offer])
        loads[gpus] = loads.get(gpus, 0) + replicas * jobs
        left = packed(self.free[offer], ((gpus, replicas * jobs),))
        if left is None:
            left = packed(self._base[offer], sorted(loads.items(), reverse=True))
        if left is None:
            return False
        self._set(offer, loads, left, -jobs)
        return True

    def give(self, offer: int, gpus: int, replicas: int, jobs: int) -> bool:
        """Takes them back; False and nothing changed where the rest cannot be laid anew."""
        loads = dict(self._loads[offer])
        loads[gpus] -= replicas * jobs
        if not loads[gpus]:
            del loads[gpus]
        left = packed(self._base[offer], sorted(loads.items(), reverse=True))
        if left is None:
            return False
        self._set(offer, loads, left, jobs)
        return True

    def laid(self, offer: int) -> Laid:
        """How the offer's nodes are filled now; whatever is sold or given leaves it as it is."""
        return self._loads[offer], self.free[offer]

    def take_back(self, offer: int, laid: Laid, jobs: int) -> None:
        """Fills the nodes as they were before so many jobs were given: laid anew, the same jobs may not fit again."""
        self._set(offer, *laid, -jobs)

    def _set(self, offer: int, loads: dict[int, int], left: dict[int, int], slots: int) -> None:
        self._loads[offer], self.free[offer] = loads, left
        self.room[:, offer] = [room(left, shape) for shape in self._shapes]
        home = self._home[offer]
        before = self.slots[home]
        if before is not None:
            self.slots[home] = before + slots
            if not before or not before + slots:
                self.open[self.provider == home] = before + slots > 0


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


NEAREST: Final = 32
"""Offers sorted at a time when a class is placed; four times as many each time they do not suffice."""


class GangPlan:
    """Who is where: `flows[i]` is {offer: jobs} of group i, `left[i]` how many of its jobs are not placed."""

    def __init__(self, problem: Problem, groups: Sequence[GangClass], nodes: FreeNodes) -> None:
        self.groups = groups
        self.nodes = nodes
        self.stock = NodeStock(problem, nodes)
        self.flows: list[dict[int, int]] = [{} for _ in groups]
        self.left = [each.jobs for each in groups]

    @property
    def placed(self) -> int:
        """How many jobs are placed."""
        return sum(sum(flows.values()) for flows in self.flows)

    def add(self, i: int, offer: int, jobs: int) -> None:
        """Places jobs that fit."""
        group = self.groups[i]
        if not self.stock.sell(offer, self.nodes.shapes[group.shape], group.replicas, jobs):
            raise ValueError(f"{jobs} jobs do not fit at offer {offer}")
        self.flows[i][offer] = self.flows[i].get(offer, 0) + jobs
        self.left[i] -= jobs

    def drop(self, i: int, offer: int, jobs: int) -> bool:
        """Takes jobs out again; False and nothing changed where the rest cannot be laid anew."""
        group = self.groups[i]
        if not self.stock.give(offer, self.nodes.shapes[group.shape], group.replicas, jobs):
            return False
        self.flows[i][offer] -= jobs
        if not self.flows[i][offer]:
            del self.flows[i][offer]
        self.left[i] += jobs
        return True

    def take_back(self, i: int, offer: int, laid: Laid, jobs: int) -> None:
        """Undoes `drop`, given how the offer was laid before it (`stock.laid`)."""
        self.stock.take_back(offer, laid, jobs)
        self.flows[i][offer] = self.flows[i].get(offer, 0) + jobs
        self.left[i] -= jobs

    def fits(self, i: int, offer: int, most: int) -> int:
        """How many jobs of group i fit at the offer, up to `most`."""
        group = self.groups[i]
        return self.stock.fits(offer, self.nodes.shapes[group.shape], group.replicas, most)

    def priced(self, i: int, table: FloatVector) -> FloatVector:
        """Priced cost at each offer of the group where one more job fits; infinite elsewhere."""
        group = self.groups[i]
        cost = group.priced(table)
        cost[~self._has_room(group, group.offers)] = np.inf
        return cost

    def fill(self, i: int, table: FloatVector, most: int | None = None) -> None:
        """Places what is left of group i (up to `most` jobs), each time where it is cheapest by these prices."""
        width = NEAREST
        offers = self.groups[i].offers
        keep = 0 if most is None else max(0, self.left[i] - most)
        while self.left[i] > keep:
            cost = self.priced(i, table)
            near = np.argpartition(cost, width)[:width] if width < len(cost) else np.arange(len(cost))
            near = near[np.argsort(cost[near], kind="stable")]
            sold = False
            for k in near.tolist():
                jobs = self.fits(i, int(offers[k]), self.left[i] - keep) if cost[k] < np.inf else 0
                if jobs:
                    self.add(i, int(offers[k]), jobs)
                    sold = True
                if self.left[i] <= keep:
                    return
            if not sold:
                return
            width *= 4

    def cheaper(self, i: int, table: FloatVector) -> int:
        """Moves jobs of group i from their dearest offers to cheaper ones that have room; how many were moved."""
        if not self.flows[i]:
            return 0
        group = self.groups[i]
        cost = group.priced(table)
        at = np.searchsorted(group.offers, np.array(sorted(self.flows[i]), dtype=np.int64))
        now = sorted(zip(cost[at].tolist(), group.offers[at].tolist(), strict=True), reverse=True)
        near = np.flatnonzero(cost < now[0][0])
        near = near[self._has_room(group, group.offers[near])]
        near = near[np.argsort(cost[near], kind="stable")]
        prices, targets = cost[near].tolist(), group.offers[near].tolist()
        moved = at_ = 0
        for dear, offer in now:
            while at_ < len(targets) and prices[at_] < dear and offer in self.flows[i]:
                target = targets[at_]
                jobs = self.fits(i, target, self.flows[i][offer]) if target != offer else 0
                if not jobs:
                    at_ += 1
                    continue
                if not self.drop(i, offer, jobs):
                    break
                self.add(i, target, jobs)
                moved += jobs
        return moved

    def _has_room(self, group: GangClass, offers: IntVector) -> BoolVector:
        """At which of these offers one more job of the group fits."""
        fits: BoolVector = (self.stock.room[group.shape][offers] >= group.replicas) & self.stock.open[offers]
        return fits
