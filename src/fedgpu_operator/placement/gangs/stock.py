"""What is left of the offers while one solve sells them by classes: nodes, lease slots and room; no price."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedgpu_operator.placement.book import Histogram, room
from fedgpu_operator.placement.gangs.shapes import Shelf
from fedgpu_operator.placement.problem import BoolVector, IntVector, Problem

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


class Stock:
    """Free GPUs per offer and lease slots per provider; what was sold may be given back.

    `room` (int64, shape (shapes, offers)) is how many replicas of each shape still fit, `open` (bool, shape
    (offers,)) whether the provider has a lease slot left.
    """

    def __init__(self, problem: Problem, shelf: Shelf) -> None:
        self._base = [{gpus: n for gpus, n in each.items() if gpus > 0 and n > 0} for each in problem.free]
        self.free: list[dict[int, int]] = [dict(each) for each in self._base]
        self._loads: list[dict[int, int]] = [{} for _ in self._base]
        self._shapes = shelf.shapes
        self.provider = problem.provider
        self._home = problem.provider.tolist()
        self.slots = [None if each is None else max(0, each) for each in problem.slots]
        self.room: IntVector = shelf.room()
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
