"""Whole jobs at offers, class by class, at the least priced cost: the greedy fill and moves to cheaper places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fedgpu_operator.placement.gangs.relax import FloatVector, Group
from fedgpu_operator.placement.gangs.shapes import Shelf
from fedgpu_operator.placement.gangs.stock import Laid, Stock
from fedgpu_operator.placement.problem import BoolVector, IntVector, Problem

NEAREST: Final = 32
"""Offers sorted at a time when a class is placed; four times as many each time they do not suffice."""


class Plan:
    """Who is where: `flows[i]` is {offer: jobs} of group i, `left[i]` how many of its jobs are not placed."""

    def __init__(self, problem: Problem, groups: Sequence[Group], shelf: Shelf) -> None:
        self.groups = groups
        self.shelf = shelf
        self.stock = Stock(problem, shelf)
        self.flows: list[dict[int, int]] = [{} for _ in groups]
        self.left = [each.jobs for each in groups]

    @property
    def placed(self) -> int:
        """How many jobs are placed."""
        return sum(sum(flows.values()) for flows in self.flows)

    def add(self, i: int, offer: int, jobs: int) -> None:
        """Places jobs that fit."""
        group = self.groups[i]
        if not self.stock.sell(offer, self.shelf.shapes[group.shape], group.replicas, jobs):
            raise ValueError(f"{jobs} jobs do not fit at offer {offer}")
        self.flows[i][offer] = self.flows[i].get(offer, 0) + jobs
        self.left[i] -= jobs

    def drop(self, i: int, offer: int, jobs: int) -> bool:
        """Takes jobs out again; False and nothing changed where the rest cannot be laid anew."""
        group = self.groups[i]
        if not self.stock.give(offer, self.shelf.shapes[group.shape], group.replicas, jobs):
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
        return self.stock.fits(offer, self.shelf.shapes[group.shape], group.replicas, most)

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

    def _has_room(self, group: Group, offers: IntVector) -> BoolVector:
        """At which of these offers one more job of the group fits."""
        fits: BoolVector = (self.stock.room[group.shape][offers] >= group.replicas) & self.stock.open[offers]
        return fits
