"""Free GPUs node by node: what fits and what is left after taking some, so that nothing is sold twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import methodcaller
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Histogram = Mapping[int, int]


_nodes: Final = methodcaller("values")


class Load(NamedTuple):
    """What one job takes of an offer: `replicas` times `gpus` GPUs, the GPUs of each replica on one node."""

    uid: str
    gpus: int
    replicas: int


def room(free: Histogram, count: int) -> int:
    """How many times `count` GPUs on one node there are."""
    return sum((gpus // count) * nodes for gpus, nodes in free.items())


def gpus_of(free: Sequence[Histogram]) -> NDArray[np.int64]:
    """All free GPUs of each histogram, (O,)."""
    buckets = np.fromiter(map(len, free), dtype=np.int64, count=len(free))
    gpus = np.fromiter(chain.from_iterable(free), dtype=np.int64, count=int(buckets.sum()))
    nodes = np.fromiter(chain.from_iterable(map(_nodes, free)), dtype=np.int64, count=len(gpus))
    until = np.append(0, np.cumsum(gpus * nodes))
    ends = np.cumsum(buckets)
    total: NDArray[np.int64] = until[ends] - until[ends - buckets]
    return total


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
