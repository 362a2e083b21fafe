"""The search over a problem with gangs that is too large for a proof: admit, place level by level, polish, bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

import numpy as np

from fedgpu_operator.placement.gangs.plan import GangPlan, make_way, place_kind, place_singles
from fedgpu_operator.placement.gangs.relaxation import (
    Balance,
    FloatVector,
    GangClass,
    GangPairs,
    GangPrices,
    Steps,
    cost_floor,
    count_ceiling,
)
from fedgpu_operator.placement.problem import Problem

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

        Singles of the lowest level come after its gangs; then, where they are many, all singles are placed again.
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
        sizes = [
            list(each) for _, each in groupby(members, key=lambda i: (plan.groups[i].shape, plan.groups[i].replicas))
        ]
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


def _free(alike: Sequence[GangClass]) -> GangClass:
    """All jobs of these groups as one that pays nothing."""
    return replace(alike[0], jobs=sum(each.jobs for each in alike), costs=np.zeros(len(alike[0].offers)))
