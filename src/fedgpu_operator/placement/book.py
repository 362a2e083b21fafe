"""The book of what is left: free GPUs node by node and lease slots, so that no pass sells anything twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

from fedgpu_operator.domain.offer import Offer

Histogram = Mapping[int, int]


class Load(NamedTuple):
    """What one job takes of an offer: `replicas` times `gpus` GPUs, the GPUs of each replica on one node."""

    uid: str
    gpus: int
    replicas: int


Mark = tuple[list[tuple[Load, ...]], list[Histogram], list[int | None]]


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


class Book:
    """Free GPUs per offer and lease slots per provider while one pass sells them.

    Offers are named by their index. Loads may be taken out again until `seal`, after which they are final.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        self.providers = tuple(sorted({offer.provider for offer in offers}))
        index = {name: i for i, name in enumerate(self.providers)}
        self.provider = tuple(index[offer.provider] for offer in offers)
        self.slots: list[int | None] = [None] * len(self.providers)
        for offer in offers:
            if offer.lease_slots is not None:
                known = self.slots[index[offer.provider]]
                slots = max(0, offer.lease_slots)
                self.slots[index[offer.provider]] = slots if known is None else min(known, slots)
        self.free: list[Histogram] = [
            {gpus: nodes for gpus, nodes in offer.free.items() if gpus > 0 and nodes > 0} for offer in offers
        ]
        self._base = list(self.free)
        self.loads: list[tuple[Load, ...]] = [()] * len(offers)

    def copy(self) -> Book:
        """A book of its own, with the same state and with everything sold so far final."""
        twin = copy(self)
        twin.reset(self.mark())
        twin.seal()
        return twin

    def mark(self) -> Mark:
        """The state now, for `reset`."""
        return list(self.loads), list(self.free), list(self.slots)

    def reset(self, mark: Mark) -> None:
        """Back to a marked state of the same block."""
        self.loads, self.free, self.slots = (list(mark[0]), list(mark[1]), list(mark[2]))

    def slots_left(self, offer: int) -> int | None:
        """Lease slots left at the offer's provider; None where unbounded."""
        return self.slots[self.provider[offer]]

    def fits(self, offer: int, load: Load) -> bool:
        """Whether the load fits beside what is there, as it lies there."""
        return self.slots_left(offer) != 0 and room(self.free[offer], load.gpus) >= load.replicas

    def add(self, offer: int, load: Load, *, rearrange: bool = False) -> bool:
        """Sell it; False and nothing changed where it does not fit. `rearrange` may lay this block's loads anew."""
        if self.slots_left(offer) == 0:
            return False
        loads = (*self.loads[offer], load)
        left: Histogram | None = take(self.free[offer], load.gpus, load.replicas)
        if left is None and rearrange:
            loads, left = self._arranged(offer, loads)
        if left is None:
            return False
        self._set(offer, loads, left, slots=-1)
        return True

    def remove(self, offer: int, uid: str) -> bool:
        """Take a load of this block out again; False and nothing changed where the rest cannot be laid anew."""
        rest = tuple(load for load in self.loads[offer] if load.uid != uid)
        left = pack(self._base[offer], rest)
        if left is None:
            rest, left = self._arranged(offer, rest)
        if left is None:
            return False
        self._set(offer, rest, left, slots=+1)
        return True

    def add_singles(self, offer: int, times: int) -> None:
        """Sell `times` single GPUs to as many jobs, from the fullest nodes first; they are final."""
        left = take(self.free[offer], 1, times)
        if left is None:
            raise ValueError(f"{times} GPUs sold of {room(self.free[offer], 1)} free")
        self._set(offer, self.loads[offer], left, slots=-times)

    def seal(self) -> None:
        """Make everything sold so far final."""
        self._base = list(self.free)
        self.loads = [()] * len(self.loads)

    def _arranged(self, offer: int, loads: tuple[Load, ...]) -> tuple[tuple[Load, ...], Histogram | None]:
        largest_first = tuple(sorted(loads, key=lambda load: (-load.gpus, load.uid)))
        return largest_first, pack(self._base[offer], largest_first)

    def _set(self, offer: int, loads: tuple[Load, ...], left: Histogram, *, slots: int) -> None:
        self.loads[offer], self.free[offer] = loads, left
        before = self.slots[self.provider[offer]]
        if before is not None:
            self.slots[self.provider[offer]] = before + slots
