"""Large jobs leave where many smaller ones of their level that wait come in: more jobs come before less cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fedgpu_operator.placement.gangs.plan import Plan
from fedgpu_operator.placement.gangs.relax import FloatVector

MANY: Final = 16
"""Jobs that one must let in to leave. For fewer a gang that is well placed would be given up for dear places."""


def make_way(plan: Plan, members: Sequence[int], table: FloatVector) -> None:
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

    def __init__(self, plan: Plan, members: Sequence[int]) -> None:
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
