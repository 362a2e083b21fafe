"""The bounds by hand: tight at the right prices, and never beyond the truth at wrong ones."""

from __future__ import annotations

import numpy as np
import pytest

from fedgpu_operator.placement.gangs.nodes import FreeNodes
from fedgpu_operator.placement.gangs.relaxation import GangClass, GangPrices, cost_floor, count_ceiling, gang_classes_of
from fedgpu_operator.placement.problem import JobClass

MILLION = 1_000_000


def nodes_and_class(jobs: int) -> tuple[FreeNodes, GangClass]:
    """`jobs` singles of one second; offer 0 has two GPUs at a million, offer 1 eight at five."""
    nodes = FreeNodes.of(({2: 1}, {8: 1}), {(1, 1)})
    members = [f"u{i}" for i in range(jobs)]
    price, everywhere = np.array([MILLION, 5 * MILLION], dtype=np.int64), np.array([True, True])
    (group,) = gang_classes_of([JobClass(members, 0, 1, 1, 1, price, everywhere)], nodes, everywhere)
    return nodes, group


@pytest.mark.parametrize(("price", "floor"), [(0.0, 3), (2.0, 5), (4.0, 7), (6.0, 3), (100.0, 3)])
def test_the_floor_is_tight_at_the_dual_price_and_true_at_any(price: float, floor: int) -> None:
    nodes, group = nodes_and_class(3)
    prices = GangPrices(nodes)
    prices.chain[0, 0] = price * MILLION
    # 2 × 1 + 1 × 5 = 7 is what three jobs must cost; the margin for doubles takes at most a few units off.
    assert floor * MILLION - 10 <= cost_floor([group], [3], prices, nodes) <= 7 * MILLION


@pytest.mark.parametrize("price", [0.0, 0.5, 1.0, 1.2, 3.0])
def test_the_ceiling_is_never_below_what_fits(price: float) -> None:
    nodes, group = nodes_and_class(14)
    prices = GangPrices(nodes)
    prices.chain[0, :] = price
    ceiling = count_ceiling([group], 0, 0, prices, nodes)
    assert 10 <= ceiling <= 14
    if price == 1.0:
        assert ceiling <= 11


def test_gangs_of_whole_nodes_use_no_part_of_the_room_that_is_too_small_for_them() -> None:
    nodes = FreeNodes.of(({8: 15},), {(8, 8), (8, 4), (1, 1)})
    used = dict(zip(nodes.kinds, nodes.whole()[:, 0].tolist(), strict=True))
    assert {(kind.gpus, kind.replicas): gpus for kind, gpus in used.items()} == {(1, 1): 120, (8, 4): 96, (8, 8): 64}


def test_shapes_that_leave_room_over_count_what_they_can_use() -> None:
    nodes = FreeNodes.of(({8: 1, 7: 1},), {(3, 1), (5, 1)})
    assert nodes.room()[:, 0].tolist() == [4, 2]
    assert nodes.chain()[:, 0].tolist() == [8 + 6, 5 + 5]
