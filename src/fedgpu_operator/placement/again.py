"""The last solve, for passes in which nothing or little of it changed; no rule and no reason here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np

from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.placement.context import BoolVector, IntVector
from fedgpu_operator.placement.flow import Change, Session
from fedgpu_operator.placement.problem import Clearing, JobClass, Problem, Solution
from fedgpu_operator.placement.solve import solve, units
from fedgpu_operator.placement.table import positions

SESSION_PAIRS: Final = 1_000_000
"""Pairs of class and offer from which on a market of single GPUs goes on from the last solution, within 0.1 % of the
optimum; smaller ones are solved exactly in no time."""


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """What the classes and offers of a problem are called in every pass.

    `moved`: by id of a price row, the row of the last pass that it is a copy of but at these offers.
    """

    classes: Sequence[Hashable]
    offers: Sequence[Hashable]
    moved: Mapping[int, tuple[IntVector, IntVector]] = field(default_factory=dict)


class Solver:
    """Solves problem after problem; the same problem twice is solved once, a large one goes on from the last.

    `remember` is whether another problem will follow.
    """

    def __init__(self, *, remember: bool = True, session_pairs: int = SESSION_PAIRS) -> None:
        self.remembers = remember
        self._session_pairs = session_pairs
        self._session = Session()
        self._market: tuple[Problem, Names] | None = None
        self._last: tuple[Problem, bool, bool, Solution] | None = None

    def solve(self, problem: Problem, names: Names, *, clearing: bool, first_only: bool) -> Solution:
        """Who goes where. Raises FedGPUError when the flow solver fails."""
        if self._last is not None:
            known, cleared, first, solution = self._last
            if (cleared or not clearing) and first == first_only and _equal(known, problem):
                return solution
        if not problem.free:
            found = _nowhere(problem)
        elif self.remembers and not clearing and not first_only and self._goes_on(problem):
            found = self._followed(problem, names)
        else:
            found = solve(problem, clearing=clearing, first_only=first_only)
        if self.remembers:
            self._last = problem, clearing, first_only, found
        return found

    def _goes_on(self, problem: Problem) -> bool:
        large = len(problem.classes) * len(problem.free) >= self._session_pairs
        return large and all(each.is_single for each in problem.classes)

    def _followed(self, problem: Problem, names: Names) -> Solution:
        """From the last market to this one, or the whole of it."""
        market = units(problem)
        try:
            if self._market is None:
                flow = self._session.solve(market)
            else:
                flow = self._session.update(market, _change(*self._market, problem, names))
        except FedGPUError:
            # Whatever was remembered led here: it must not fail the next pass too.
            self._session, self._market = Session(), None
            return solve(problem)
        self._market = problem, replace(names, moved={})
        sold = tuple(zip(flow.offers.tolist(), flow.units.tolist(), strict=True))
        cuts = np.searchsorted(flow.rows, np.arange(len(problem.classes) + 1)).tolist()
        flows = tuple(sold[begin:end] for begin, end in pairwise(cuts))
        return Solution(flows, flow.cost, flow.placed, flow.most, flow.floor, flow.certified, None, flow.rounds)


def _change(old: Problem, were: Names, new: Problem, names: Names) -> Change:
    rows, offers = positions(were.classes, names.classes), positions(were.offers, names.offers)
    source = None if np.array_equal(offers, np.arange(len(old.free))) else np.maximum(offers, 0)
    changed = offers < 0
    compared: set[tuple[int, int]] = set()
    for each, row in zip(new.classes, rows.tolist(), strict=True):
        if row < 0 or not old.free:
            continue
        before = old.classes[row]
        for was, now in ((before.price, each.price), (before.eligible, each.eligible)):
            ids = id(was), id(now)
            if ids not in compared and (source is not None or was is not now):
                compared.add(ids)
                copy = names.moved.get(ids[1])
                if source is None and copy is not None and copy[0] is was:
                    changed[copy[1]] = True
                else:
                    changed |= (was if source is None else was[source]) != now
    return Change(rows, offers, changed)


def _nowhere(problem: Problem) -> Solution:
    """Where nobody offers anything, nobody is placed, and that is the best there is."""
    none = np.zeros(0, dtype=np.int64)
    return Solution(tuple(() for _ in problem.classes), 0, 0, 0, 0, certified=True, clearing=Clearing(none, none))


def _equal(one: Problem, two: Problem) -> bool:
    """Whether a solver would see no difference; which jobs are in a class is none."""
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
        and _same(one.eligible, two.eligible)
        and _same(one.price, two.price)
    )


def _same(one: BoolVector | IntVector, two: BoolVector | IntVector) -> bool:
    return one is two or np.array_equal(one, two)
