"""What free nodes hold of each size of replica and gang, and the nodes while gangs are placed on them; no price.

Arrays are over offers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.domain.offer import Histogram, pack, room
from fedgpu_operator.placement.problem import BoolVector, IntVector, Problem

EXACT_SIZES: Final = 8
"""Gang sizes of one shape that are told apart exactly; if there are more, powers of two bound them."""
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
        """Takes them, laying all there out again if that makes room; False and nothing changed if it does not."""
        slots = self.slots[self._home[offer]]
        if slots is not None and slots < jobs:
            return False
        loads = dict(self._loads[offer])
        loads[gpus] = loads.get(gpus, 0) + replicas * jobs
        left = pack(self.free[offer], ((gpus, replicas * jobs),))
        if left is None:
            left = pack(self._base[offer], sorted(loads.items(), reverse=True))
        if left is None:
            return False
        self._set(offer, loads, left, -jobs)
        return True

    def give(self, offer: int, gpus: int, replicas: int, jobs: int) -> bool:
        """Takes them back; False and nothing changed if the rest cannot be laid out again."""
        loads = dict(self._loads[offer])
        loads[gpus] -= replicas * jobs
        if not loads[gpus]:
            del loads[gpus]
        left = pack(self._base[offer], sorted(loads.items(), reverse=True))
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
