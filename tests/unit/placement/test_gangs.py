"""Gangs on tiny worlds against exhaustive search: bounds true, never oversold, all or none, small worlds optimal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

import numpy as np
import pytest

from fedgpu_operator.placement import solve as solving
from fedgpu_operator.placement.problem import JobClass, Problem, Solution
from fedgpu_operator.placement.solve import solve

Value = tuple[int, ...]


def random_problem(rng: Random, *, classes: int = 3, jobs: int = 2) -> Problem:
    """A few classes of a few jobs, offers of one to three nodes, lease slots now and then: capacity is short."""
    offers = rng.randint(1, 3)
    providers = rng.randint(1, offers)
    free = tuple(
        {rng.choice([1, 2, 3, 4, 8]): rng.randint(1, 2) for _ in range(rng.randint(1, 2))} for _ in range(offers)
    )
    made = []
    uid = 0
    for _ in range(rng.randint(1, classes)):
        size = rng.randint(1, jobs)
        gpus, replicas = rng.choice([(1, 1), (1, 1), (1, 3), (2, 1), (3, 1), (2, 2), (4, 1), (8, 1), (3, 2)])
        price = np.array([rng.choice([1, 2, 3, 5, 8]) * 100_000 for _ in range(offers)], dtype=np.int64)
        eligible = np.array([rng.random() < 0.8 for _ in range(offers)], dtype=bool)
        seconds = rng.choice([60, 600, 3600]) * gpus * replicas
        members = [f"u{uid + i:03d}" for i in range(size)]
        uid += size
        made.append(JobClass(members, rng.choice([0, 0, 1]), gpus, replicas, seconds, price, eligible))
    made.sort(key=lambda each: (-each.priority, each.members[0]))
    slots = tuple(rng.choice([None, None, 1, 2]) for _ in range(providers))
    provider = np.array([min(i, providers - 1) for i in range(offers)], dtype=np.int64)
    return Problem(tuple(made), free, provider, slots)


def packs(nodes: Sequence[int], loads: Sequence[int]) -> bool:
    """Whether the loads (largest first) fit the nodes: plain search."""
    if not loads:
        return True
    tried = set()
    for i, node in enumerate(nodes):
        if node >= loads[0] and node not in tried:
            tried.add(node)
            if packs([*nodes[:i], node - loads[0], *nodes[i + 1 :]], loads[1:]):
                return True
    return False


def loads_at(problem: Problem, rows: Sequence[dict[int, int]], offer: int) -> list[int]:
    """GPUs of every replica at the offer, largest first."""
    loads = []
    for each, row in zip(problem.classes, rows, strict=True):
        loads += [each.gpus] * (each.replicas * row.get(offer, 0))
    return sorted(loads, reverse=True)


def feasible(problem: Problem, rows: Sequence[dict[int, int]]) -> bool:
    for each, row in zip(problem.classes, rows, strict=True):
        if sum(row.values()) > each.size or any(not each.eligible[offer] or jobs < 1 for offer, jobs in row.items()):
            return False
    for provider, slots in enumerate(problem.slots):
        leases = sum(jobs for row in rows for offer, jobs in row.items() if problem.provider[offer] == provider)
        if slots is not None and leases > slots:
            return False
    return all(
        packs([gpus for gpus, count in free.items() for _ in range(count)], loads_at(problem, rows, offer))
        for offer, free in enumerate(problem.free)
    )


def value(problem: Problem, rows: Sequence[dict[int, int]]) -> Value:
    """Minus the jobs placed by level, then the cost: less is better."""
    levels = sorted({each.priority for each in problem.classes}, reverse=True)
    placed = [
        -sum(sum(row.values()) for each, row in zip(problem.classes, rows, strict=True) if each.priority == level)
        for level in levels
    ]
    cost = sum(
        int(each.price[offer]) * each.seconds * jobs
        for each, row in zip(problem.classes, rows, strict=True)
        for offer, jobs in row.items()
    )
    return (*placed, cost)


def splits(size: int, offers: Sequence[int]) -> Iterator[dict[int, int]]:
    if not offers:
        yield {}
        return
    for jobs in range(size + 1):
        for rest in splits(size - jobs, offers[1:]):
            yield {offers[0]: jobs, **rest} if jobs else rest


def everything(problem: Problem) -> list[list[dict[int, int]]]:
    """All feasible assignments."""
    each_class = [
        list(splits(each.size, [int(offer) for offer in np.flatnonzero(each.eligible)])) for each in problem.classes
    ]
    return [list(rows) for rows in product(*each_class) if feasible(problem, rows)]


def rows_of(solution: Solution) -> list[dict[int, int]]:
    return [dict(flow) for flow in solution.flows]


def check(problem: Problem, solution: Solution) -> Value:
    """What must hold of every answer; returns the true optimum."""
    rows = rows_of(solution)
    assert feasible(problem, rows)
    mine = value(problem, rows)
    assert solution.cost == mine[-1]
    assert solution.placed == -sum(mine[:-1])
    world = everything(problem)
    best = min(value(problem, each) for each in world)
    counts = [sum(row.values()) for row in rows]
    cheapest = min(value(problem, each)[-1] for each in world if [sum(row.values()) for row in each] == counts)
    assert solution.floor <= cheapest, "the floor is above what the same jobs can cost"
    assert solution.most >= -sum(best[:-1]), "more jobs fit than `most` allows"
    if solution.certified:
        assert mine == best
    return best


def test_small_worlds_get_the_proven_optimum(instances: int) -> None:
    contested = 0
    for seed in range(instances // 6):
        problem = random_problem(Random(seed))
        solution = solve(problem)
        best = check(problem, solution)
        assert solution.certified, f"seed {seed}"
        assert value(problem, rows_of(solution)) == best, f"seed {seed}"
        contested += -sum(best[:-1]) < sum(each.size for each in problem.classes)
    assert contested > instances // 30, "the worlds became too easy to prove anything"


def test_bounds_hold_without_the_exact_search(instances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "MAX_PAIRS", -1)
    fewer = worlds = 0
    for seed in range(instances // 15):
        problem = random_problem(Random(seed))
        solution = solve(problem)
        best = check(problem, solution)
        worlds += 1
        fewer += -solution.placed > sum(best[:-1])
    assert fewer < worlds * 0.1, f"{fewer} of {worlds} worlds place fewer jobs than could be"
