"""The exact search stays bounded: patterns are counted before they are listed, and all searches share one budget."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from ortools.sat.python import cp_model

from fedgpu_operator.placement.gangs import exact
from fedgpu_operator.placement.gangs.exact import MAX_PATTERNS, MAX_WORK, how_many, patterns
from fedgpu_operator.placement.gangs.nodes import FreeNodes
from fedgpu_operator.placement.problem import JobClass, Problem
from fedgpu_operator.placement.solve import solve


def on_one_node(node: int, jobs: list[tuple[int, int]]) -> Problem:
    """Jobs of (GPUs, priority) for the one node of one offer."""
    price, everywhere = np.array([1], dtype=np.int64), np.array([True])
    classes = [
        JobClass((f"u{i}",), priority, gpus, 1, 3600, price, everywhere) for i, (gpus, priority) in enumerate(jobs)
    ]
    return Problem(tuple(classes), ({node: 1},), np.zeros(1, dtype=np.int64), (None,))


def test_patterns_are_counted_as_they_are_listed() -> None:
    rng = Random(7)
    for _ in range(300):
        shapes = tuple(sorted(rng.sample(range(1, 9), rng.randint(1, 4))))
        gpus = rng.randint(shapes[0], 16)
        assert how_many(gpus, shapes) == len(patterns(gpus, shapes))


def test_a_node_of_far_too_many_patterns_is_never_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def listed(gpus: int, shapes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        asked.append(gpus)
        return ()

    monkeypatch.setattr(exact, "patterns", listed)
    assert how_many(128, tuple(range(1, 9))) > 10**6 > MAX_PATTERNS
    solution = solve(on_one_node(128, [(1 + i % 8, 0) for i in range(32)]))
    assert 0 < solution.placed <= 31
    assert not asked


def test_all_levels_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    granted, used = [], [0.0]
    solved = cp_model.CpSolver.solve

    def watched(self: cp_model.CpSolver, model: cp_model.CpModel) -> cp_model.CpSolverStatus:
        granted.append((self.parameters.max_deterministic_time, MAX_WORK - used[-1]))
        status = solved(self, model)
        used.append(used[-1] + self.response_proto.deterministic_time)
        return status

    monkeypatch.setattr(cp_model.CpSolver, "solve", watched)
    solution = solve(on_one_node(8, [(3, level) for level in range(6)] + [(5, level) for level in range(6)]))
    assert solution.certified
    assert len(granted) > 2
    assert used[-1] > 0
    assert all(grant <= left + 1e-9 for grant, left in granted)
    assert granted[-1][0] == pytest.approx(granted[-1][1]), "the cost gets all that is left"


def test_what_nodes_are_worth_needs_no_more_than_the_largest_shape_reaches() -> None:
    nodes = FreeNodes.of(({1000: 1, 7: 2},), {(3, 1), (5, 1)})
    prices = np.array([[3.0], [6.0]])
    # 1000 = 200 × 5; 7 = 5 and two left over, or 3 + 3.
    assert nodes.worth(prices).tolist() == [200 * 6.0 + 2 * 6.0]
