"""Free GPUs node by node: what fits and what is left after taking some, so that nothing is sold twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Histogram = Mapping[int, int]


class Load(NamedTuple):
    """What one job takes of an offer: `replicas` times `gpus` GPUs, the GPUs of each replica on one node."""

    uid: str
    gpus: int
    replicas: int


def room(free: Histogram, count: int) -> int:
    """How many times `count` GPUs on one node there are."""
    return sum((gpus // count) * nodes for gpus, nodes in free.items())


def take(free: Histogram, count: int, times: int) -> dict[int, int] | None:
    """What is left after taking `times` × `count`, each from the fullest node that still fits; None if too much."""
    left = {gpus: nodes for gpus, nodes in free.items() if nodes > 0}
    while times:
        gpus = min((each for each in left if each >= count), default=None)
        if gpus is None:
            return None
        # Whole nodes first; the last one of them may be used in part.
        per_node = gpus // count
        whole = min(left[gpus], times // per_node)
        nodes, used = (whole, per_node) if whole else (1, times)
        _move(left, gpus, gpus - used * count, nodes)
        times -= nodes * used
    return left


def _move(left: dict[int, int], source: int, target: int, nodes: int) -> None:
    left[source] -= nodes
    if not left[source]:
        del left[source]
    if target:
        left[target] = left.get(target, 0) + nodes


def pack(free: Histogram, loads: Iterable[Load]) -> Histogram | None:
    """What is left after the loads in this order; None where they do not fit so."""
    left = free
    for load in loads:
        after = take(left, load.gpus, load.replicas)
        if after is None:
            return None
        left = after
    return left
