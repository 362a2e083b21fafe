"""A plan of gangs on nodes, and how it is filled: class by class, a whole gang size by one flow, or by making way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fedgpu_operator.placement.flow import Transport, transport
from fedgpu_operator.placement.flow.costs import COST_RANGE
from fedgpu_operator.placement.gangs.nodes import FreeNodes, Laid, NodeStock
from fedgpu_operator.placement.gangs.relaxation import FloatVector, GangClass
from fedgpu_operator.placement.problem import BoolVector, IntVector, Problem

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
        """Takes jobs out again; False and nothing changed if the rest cannot be laid out again."""
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
    """Places all jobs of one GPU again in what the others leave, by the first answer of one flow.

    It begins at the prices of `table` (µUSD · s per hour and replica, shape (kinds, offers)).
    """
    members = [i for i, each in enumerate(plan.groups) if each.gpus == 1]
    if not members:
        return
    for i in members:
        for offer, jobs in tuple(plan.flows[i].items()):
            # Where the rest cannot be laid out again they stay; the flow then places the others.
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
