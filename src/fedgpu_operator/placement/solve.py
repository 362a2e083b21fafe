"""Who gets which offer: exact for single-GPU jobs, bounded for gangs; no rule and no reason here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np

from fedgpu_operator.domain.offer import Histogram
from fedgpu_operator.placement.flow import Transport, transport
from fedgpu_operator.placement.gangs.exact import MAX_JOBS, MAX_PAIRS, Exact, Flows, optimum, value_of
from fedgpu_operator.placement.gangs.large import COARSE, FINE, Large
from fedgpu_operator.placement.gangs.nodes import FreeNodes
from fedgpu_operator.placement.gangs.plan import GangPlan
from fedgpu_operator.placement.gangs.relaxation import gang_classes_of
from fedgpu_operator.placement.problem import Clearing, IntVector, JobClass, Problem, Solution

SHARES: Final = (1.0, 0.2, 0.0)
"""By how much of the relaxation's prices the moves to cheaper places are led, in turn."""


class Solver:
    """Solves problem after problem; one that equals the last is not solved again."""

    def __init__(self) -> None:
        self._last: tuple[Problem, bool, bool, Solution] | None = None

    def solve(self, problem: Problem, *, clearing: bool, first_only: bool) -> Solution:
        """As the function `solve`, with the last answer where that is known to be the same."""
        if self._last is not None:
            known, cleared, first, solution = self._last
            if (cleared or not clearing) and first == first_only and _equal(known, problem):
                return solution
        found = solve(problem, clearing=clearing, first_only=first_only)
        self._last = problem, clearing, first_only, found
        return found


def _equal(one: Problem, two: Problem) -> bool:
    """Whether a solver would see no difference; it never looks at the names of the jobs in a class."""
    return (
        len(one.classes) == len(two.classes)
        and one.slots == two.slots
        and one.free == two.free
        and np.array_equal(one.provider, two.provider)
        and all(_alike(a, b) for a, b in zip(one.classes, two.classes, strict=True))
    )


def _alike(one: JobClass, two: JobClass) -> bool:
    return (
        (one.size, one.priority, one.gpus, one.replicas, one.seconds)
        == (two.size, two.priority, two.gpus, two.replicas, two.seconds)
        and (one.eligible is two.eligible or np.array_equal(one.eligible, two.eligible))
        and (one.price is two.price or np.array_equal(one.price, two.price))
    )


def solve(problem: Problem, *, clearing: bool = False, first_only: bool = False) -> Solution:
    """Who goes where, with its bounds; the same for the same problem.

    Most jobs of the highest priority, then of the next, and so on; then the least cost. Without gangs that is exact
    (`first_only`: a quick answer before the proof). With gangs it is exact if the problem is small, else bounded by
    the relaxation; `clearing` is then that of GPUs as if they could be split. Raises FedGPUError when a solver fails.
    """
    if not problem.free:
        nothing = np.zeros(0, dtype=np.int64)
        return _solution(problem, [{} for _ in problem.classes], 0, 0, Clearing(nothing, nothing))
    if all(each.is_single for each in problem.classes):
        flow = transport(units(problem), clearing=clearing, first_only=first_only)
        flows: Flows = [{} for _ in problem.classes]
        for row, offer, jobs in zip(flow.rows.tolist(), flow.offers.tolist(), flow.units.tolist(), strict=True):
            flows[row][offer] = jobs
        rows = tuple(tuple(sorted(each.items())) for each in flows)
        bounds = (flow.cost, flow.placed, flow.most, flow.floor, flow.certified)
        return Solution(rows, *bounds, flow.clearing, flow.rounds)
    prices = transport(units(problem), clearing=True, first_only=first_only).clearing if clearing else None
    return _mixed(problem, prices, first_only=first_only)


def _mixed(problem: Problem, clearing: Clearing | None, *, first_only: bool) -> Solution:
    nodes = FreeNodes.of(problem.free, {(each.gpus, each.replicas) for each in problem.classes})
    has_slot = np.array([each is None or each > 0 for each in problem.slots], dtype=bool)[problem.provider]
    groups = gang_classes_of(problem.classes, nodes, has_slot)
    if not groups:
        return _solution(problem, [{} for _ in problem.classes], 0, 0, clearing)
    small = _small(problem, GangPlan(problem, groups, nodes))
    if small is not None and small.proven:
        return _solution(problem, small.flows, None, None, clearing)
    plan = GangPlan(problem, groups, nodes)
    large = Large(problem, plan)
    large.arrange()
    if not first_only:
        large.polish(SHARES)
    flows = _by_class(problem, plan)
    if small is not None:
        flows = min(small.flows, flows, key=lambda each: value_of(problem, each))
    counts = [sum(flows[each.index].values()) for each in groups]
    return _solution(problem, flows, large.most(counts), large.floor(counts, COARSE if first_only else FINE), clearing)


def _small(problem: Problem, plan: GangPlan) -> Exact | None:
    """The optimum of a small problem, or what is best after bounded search; None if it is not small.

    Everybody at the cheapest offer is proven by that; else constraint programming goes on from the greedy fill.
    """
    groups = plan.groups
    if sum(len(each.offers) for each in groups) > MAX_PAIRS or sum(each.jobs for each in groups) > MAX_JOBS:
        return None
    free = np.zeros((len(plan.nodes.kinds), len(problem.free)))
    for i in sorted(range(len(groups)), key=lambda i: (-groups[i].level, -groups[i].shape, -groups[i].gpus, i)):
        plan.fill(i, free)
    flows = _by_class(problem, plan)
    best = sum(
        min(int(problem.classes[each.index].price[o]) for o in each.offers.tolist()) * each.seconds * each.jobs
        for each in groups
    )
    if not any(plan.left) and value_of(problem, flows)[-1] == best:
        return Exact(flows, proven=True)
    fresh = GangPlan(problem, groups, plan.nodes)
    fits: Flows = [{} for _ in problem.classes]
    for i, each in enumerate(groups):
        fits[each.index] = {offer: fresh.fits(i, offer, each.jobs) for offer in each.offers.tolist()}
    return optimum(problem, fits, flows)


def units(problem: Problem) -> Transport:
    """The problem with every GPU a unit of its own; lease slots are per job and bind only where all jobs are single."""
    single = all(each.is_single for each in problem.classes)
    gpus = [each.gpus * each.replicas for each in problem.classes]
    return Transport(
        demand=np.array([each.size * n for each, n in zip(problem.classes, gpus, strict=True)], dtype=np.int64),
        priority=tuple(each.priority for each in problem.classes),
        seconds=np.array([each.seconds // n for each, n in zip(problem.classes, gpus, strict=True)], dtype=np.int64),
        price=[each.price for each in problem.classes],
        eligible=[each.eligible for each in problem.classes],
        supply=_gpus_of(problem.free),
        provider=problem.provider,
        slots=tuple(problem.slots) if single else (None,) * len(problem.slots),
    )


def _gpus_of(free: Sequence[Histogram]) -> IntVector:
    """All free GPUs of each histogram, (O,)."""
    buckets = np.fromiter(map(len, free), dtype=np.int64, count=len(free))
    gpus = np.fromiter(chain.from_iterable(free), dtype=np.int64, count=int(buckets.sum()))
    nodes = np.fromiter(chain.from_iterable(each.values() for each in free), dtype=np.int64, count=len(gpus))
    until = np.append(0, np.cumsum(gpus * nodes))
    ends = np.cumsum(buckets)
    total: IntVector = until[ends] - until[ends - buckets]
    return total


def _by_class(problem: Problem, plan: GangPlan) -> Flows:
    flows: Flows = [{} for _ in problem.classes]
    for group, each in zip(plan.groups, plan.flows, strict=True):
        flows[group.index] = each
    return flows


def _solution(
    problem: Problem, flows: Flows, most: int | None, floor: int | None, clearing: Clearing | None
) -> Solution:
    """The answer with its bounds; without bounds it is proven optimal."""
    placed = sum(sum(each.values()) for each in flows)
    cost = value_of(problem, flows)[-1]
    most, floor = placed if most is None else most, cost if floor is None else min(floor, cost)
    rows = tuple(tuple(sorted(each.items())) for each in flows)
    return Solution(rows, cost, placed, most, floor, most == placed and floor == cost, clearing)
