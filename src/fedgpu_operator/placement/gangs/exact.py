"""Small problems by constraint programming: the true optimum where CP-SAT proves it in bounded work; nothing larger.

Nodes are filled by patterns (multisets of shapes that fit a node and leave no room for another), so a solution can
always be laid out; the search is single-threaded, seeded and bounded in deterministic time, so it repeats exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING, Final

from fedgpu_operator.placement.problem import Problem

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

MAX_PAIRS: Final = 600
"""Pairs (class, offer) up to which a problem is small."""
MAX_JOBS: Final = 2_000
"""Jobs up to which a problem is small."""
MAX_PATTERNS: Final = 120
"""Patterns of one node up to which its offer can be modelled."""
MAX_WORK: Final = 2.0
"""Deterministic time of all searches of one problem: about as many seconds on a quiet core.

A search that others follow may use half of what is left.
"""
KEPT: Final = 4_096
"""Kinds of nodes whose patterns are remembered."""

Flows = list[dict[int, int]]


@dataclass(frozen=True, slots=True)
class Exact:
    """Jobs per class and offer, and whether nothing better exists."""

    flows: Flows
    proven: bool


def optimum(problem: Problem, fits: Sequence[dict[int, int]], start: Flows) -> Exact | None:
    """The best assignment: most jobs by level, then least cost; None if the problem is not small.

    `fits[c]` is how many jobs of class c each of its offers holds if nothing else comes; `start` is an assignment to
    begin from, never made worse.
    """
    jobs = sum(each.size for each in problem.classes)
    if sum(map(len, fits)) > MAX_PAIRS or jobs > MAX_JOBS:
        return None
    model = _Model(problem, fits)
    return model.best(start) if model.fine else None


@lru_cache(maxsize=KEPT)
def how_many(gpus: int, shapes: tuple[int, ...]) -> int:
    """How many patterns `patterns` would list, without listing them."""
    sums = [1] + [0] * gpus
    for shape in shapes:
        for total in range(shape, gpus + 1):
            sums[total] += sums[total - shape]
    return sum(sums[max(0, gpus - shapes[0] + 1) :])


@lru_cache(maxsize=KEPT)
def patterns(gpus: int, shapes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """All maximal multisets of `shapes` (ascending; counts in their order) that fit a node of `gpus` free GPUs."""
    if not shapes:
        return ((),)
    largest = shapes[-1]
    found = {
        (*rest, count) for count in range(gpus // largest + 1) for rest in patterns(gpus - count * largest, shapes[:-1])
    }
    used = {each: sum(n * shape for n, shape in zip(each, shapes, strict=True)) for each in found}
    return tuple(sorted(each for each in found if gpus - used[each] < shapes[0]))


class _Model:
    def __init__(self, problem: Problem, fits: Sequence[dict[int, int]]) -> None:
        # With it come pandas and 40 MiB; a hub on which nobody contends for whole nodes never needs it.
        from ortools.sat.python import cp_model

        self._problem = problem
        self._work = MAX_WORK
        self._solver = cp_model.CpSolver()
        self._proves = {cp_model.OPTIMAL: True, cp_model.FEASIBLE: False}
        self._model = cp_model.CpModel()
        self._jobs = {
            (row, offer): self._model.new_int_var(0, min(each.size, fits[row][offer]), "")
            for row, each in enumerate(problem.classes)
            for offer in sorted(fits[row])
            if fits[row][offer]
        }
        self.fine = True
        for row, each in enumerate(problem.classes):
            self._model.add(sum(v for (r, _), v in self._jobs.items() if r == row) <= each.size)
        for offer in sorted({offer for _, offer in self._jobs}):
            self._hold(offer)
        for provider, slots in enumerate(problem.slots):
            if slots is not None:
                mine = [v for (_, offer), v in self._jobs.items() if problem.provider[offer] == provider]
                self._model.add(sum(mine) <= max(0, slots))

    def _hold(self, offer: int) -> None:
        classes = self._problem.classes
        here = [row for row, at in self._jobs if at == offer]
        shapes = tuple(sorted({classes[row].gpus for row in here}))
        capacity: dict[int, list[cp_model.LinearExpr]] = {shape: [] for shape in shapes}
        for gpus, nodes in sorted(self._problem.free[offer].items()):
            if gpus < shapes[0] or nodes <= 0:
                continue
            if how_many(gpus, shapes) > MAX_PATTERNS:
                self.fine = False
                return
            known = patterns(gpus, shapes)
            chosen = [self._model.new_int_var(0, nodes, "") for _ in known]
            self._model.add(sum(chosen) == nodes)
            for pattern, var in zip(known, chosen, strict=True):
                for shape, count in zip(shapes, pattern, strict=True):
                    if count:
                        capacity[shape].append(count * var)
        for shape in shapes:
            rows = [row for row in here if classes[row].gpus == shape]
            self._model.add(sum(classes[row].replicas * self._jobs[row, offer] for row in rows) <= sum(capacity[shape]))

    def best(self, start: Flows) -> Exact:
        """Level by level, then by cost; `start` where the search ends before it finds anything better."""
        classes = self._problem.classes
        flows, proven = start, True
        for level in sorted({each.priority for each in classes}, reverse=True):
            mine = [v for (row, _), v in self._jobs.items() if classes[row].priority == level]
            if not mine:
                continue
            count = self._count(flows, level)
            if count < sum(each.size for row, each in enumerate(classes) if each.priority == level and self._asks(row)):
                self._model.maximize(sum(mine))
                flows, sure = self._search(flows, self._work / 2)
                proven &= sure
                count = self._count(flows, level)
            self._model.add(sum(mine) == count)
        costs = {(row, offer): int(classes[row].price[offer]) * classes[row].seconds for row, offer in self._jobs}
        unit = gcd(*costs.values()) if costs else 1
        largest = max(costs.values(), default=0) // max(unit, 1)
        if largest * max(1, sum(each.size for each in classes)) >= 2**60:
            return Exact(flows, False)
        self._model.minimize(sum(costs[key] // max(unit, 1) * var for key, var in self._jobs.items()))
        flows, sure = self._search(flows, self._work)
        return Exact(flows, proven and sure)

    def _asks(self, row: int) -> bool:
        return any(r == row for r, _ in self._jobs)

    def _count(self, flows: Flows, level: int) -> int:
        return sum(sum(each.values()) for row, each in enumerate(flows) if self._problem.classes[row].priority == level)

    def _search(self, flows: Flows, work: float) -> tuple[Flows, bool]:
        self._model.clear_hints()  # type: ignore[no-untyped-call]  # ortools ships it without types
        for (row, offer), var in self._jobs.items():
            self._model.add_hint(var, flows[row].get(offer, 0))
        solver = self._solver
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_deterministic_time = work
        status = solver.solve(self._model)
        self._work = max(0.0, self._work - solver.response_proto.deterministic_time)
        if status not in self._proves:
            return flows, False
        found: Flows = [{} for _ in self._problem.classes]
        for (row, offer), var in self._jobs.items():
            if jobs := solver.value(var):
                found[row][offer] = jobs
        return min(flows, found, key=lambda each: value_of(self._problem, each)), self._proves[status]


def value_of(problem: Problem, flows: Flows) -> tuple[int, ...]:
    """Minus the jobs placed by level, then the cost (µUSD · s per hour): less is better."""
    classes = problem.classes
    placed = dict.fromkeys(sorted({each.priority for each in classes}, reverse=True), 0)
    cost = 0
    for each, flow in zip(classes, flows, strict=True):
        for offer, jobs in flow.items():
            placed[each.priority] -= jobs
            cost += int(each.price[offer]) * each.seconds * jobs
    return (*placed.values(), cost)
