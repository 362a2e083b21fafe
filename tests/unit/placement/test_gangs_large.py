"""Hundreds of gangs at once: lawful, within the stated gap, repeatable, and higher levels first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedgpu_operator.domain.offer import pack
from fedgpu_operator.placement.problem import JobClass, Problem, Solution
from fedgpu_operator.placement.solve import solve

SHAPES = [(1, 1), (1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (4, 2), (1, 8), (8, 4)]


def market(seed: int, *, load: float, classes: int = 80, offers: int = 300, jobs: int = 12) -> Problem:
    """Classes over offers with nodes of eight, partly used, of which they ask for `load` of the GPUs."""
    rng = np.random.default_rng(seed)
    base = rng.integers(100, 600, offers) * 10_000
    zone = rng.integers(0, 6, offers)
    made = []
    for number in range(classes):
        gpus, replicas = SHAPES[int(rng.integers(len(SHAPES)))]
        size = int(rng.integers(1, 2 * jobs))
        eligible = np.isin(zone, rng.choice(6, 4, replace=False))
        price = base + rng.integers(0, 40, offers) * 10_000
        seconds = int(rng.choice([600, 3600, 86400])) * gpus * replicas
        members = [f"{number:03d}-{i:03d}" for i in range(size)]
        made.append(JobClass(members, int(rng.random() < 0.2), gpus, replicas, seconds, price, eligible))
    made.sort(key=lambda each: (-each.priority, each.members[0]))
    asked = sum(each.size * each.gpus * each.replicas for each in made)
    free = []
    for share in rng.lognormal(0, 0.5, offers) * asked / load / offers / 1.13:
        whole, part = int(share * 0.6 / 8 + rng.random()), int(rng.integers(1, 8))
        free.append({8: whole, part: max(1, int(share * 0.4 / part))})
    slots = tuple(int(rng.integers(3, 30)) if rng.random() < 0.1 else None for _ in range(offers // 2))
    return Problem(tuple(made), tuple(free), np.arange(offers, dtype=np.int64) // 2, slots)


def assert_lawful(problem: Problem, solution: Solution) -> None:
    loads: list[list[tuple[int, int]]] = [[] for _ in problem.free]
    leases = np.zeros(len(problem.slots), dtype=np.int64)
    for each, flow in zip(problem.classes, solution.flows, strict=True):
        assert sum(jobs for _, jobs in flow) <= each.size
        for offer, jobs in flow:
            assert jobs > 0
            assert each.eligible[offer]
            loads[offer].append((each.gpus, each.replicas * jobs))
            leases[problem.provider[offer]] += jobs
    for free, load in zip(problem.free, loads, strict=True):
        assert pack(free, sorted(load, reverse=True)) is not None
    for taken, slots in zip(leases.tolist(), problem.slots, strict=True):
        assert slots is None or taken <= slots


@pytest.mark.parametrize(("load", "gap"), [(0.5, 0.1), (0.8, 0.12), (1.3, 0.15)])
def test_the_gap_is_stated_and_nothing_is_sold_twice(load: float, gap: float) -> None:
    for seed in range(3):
        problem = market(seed, load=load)
        solution = solve(problem)
        assert_lawful(problem, solution)
        assert solution.placed <= solution.most
        assert solution.floor <= solution.cost
        assert solution.gap <= gap, f"seed {seed}"


def test_equal_problems_get_equal_answers() -> None:
    first, second = solve(market(5, load=1.1)), solve(market(5, load=1.1))
    assert first.flows == second.flows
    assert (first.most, first.floor) == (second.most, second.floor)


def test_lower_levels_take_nothing_from_higher_ones() -> None:
    problem = market(2, load=1.5)
    high = [each for each in problem.classes if each.priority == 1]
    alone = solve(replace(problem, classes=tuple(high)))
    together = solve(problem)
    placed = sum(jobs for flow in together.flows[: len(high)] for _, jobs in flow)
    assert placed >= alone.placed * 0.99


def test_a_first_answer_is_lawful_and_bounded() -> None:
    problem = market(4, load=0.9)
    solution = solve(problem, first_only=True)
    assert_lawful(problem, solution)
    assert solution.placed <= solution.most
    assert solution.floor <= solution.cost


def test_clearing_comes_with_gangs_too() -> None:
    clearing = solve(market(4, load=1.5, classes=20), clearing=True).clearing
    assert clearing is not None
    assert (clearing.low >= 0).all()
    assert (clearing.low > 0).any()


def test_a_gang_that_left_for_too_few_comes_back_though_its_nodes_cannot_be_laid_so_again() -> None:
    """Laid anew, best fit first, gangs of 3 and of 2 GPUs no longer fit where selling one by one had put them."""
    germany, france, states = (np.arange(3) == offer for offer in range(3))
    wanted = ((3, 2, 16, germany), (4, 3, 4, germany), (40, 2, 1, germany), (3, 8, 1, france), (2_500, 1, 1, states))
    classes, uid = [], 0
    for jobs, gpus, replicas, eligible in wanted:
        members = [f"u{uid + i:05d}" for i in range(jobs)]
        price = np.full(3, 1_000_000, dtype=np.int64)
        classes.append(JobClass(members, 0, gpus, replicas, 3_600 * gpus * replicas, price, eligible))
        uid += jobs
    nodes = ({5: 16, 4: 16}, {8: 4}, {8: 400})
    problem = Problem(tuple(classes), nodes, np.arange(3, dtype=np.int64), (None, None, None))
    found = solve(problem)
    assert found.placed <= found.most
    assert [sum(jobs for _, jobs in flows) for flows in found.flows][3:] == [3, 2_500]


def test_prices_beyond_all_measure_end_no_pass() -> None:
    price = np.array([9 * 10**17], dtype=np.int64)
    job = JobClass(["u"], 0, 1, 1, 3_600, price, np.ones(1, dtype=bool))
    found = solve(Problem((job,), ({8: 1},), np.zeros(1, dtype=np.int64), (None,)))
    assert (found.placed, found.cost) == (1, 3_600 * 9 * 10**17)
