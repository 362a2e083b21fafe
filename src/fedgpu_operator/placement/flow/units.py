"""What one solve of splittable units is asked and what it answers; nothing is solved here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedgpu_operator.placement.problem import BoolVector, Clearing, IntVector


@dataclass(frozen=True, slots=True, eq=False)
class Transport:
    """Classes that want units, and offers. A unit of class c at offer o costs ``price[c][o] * seconds[c]``.

    `demand`, `seconds` (C,) and `supply`, `provider` (O,) are int64; `price` int64 and `eligible` bool are C arrays of
    shape (O,), the same objects where they are equal. `slots` is how many units a provider takes over all its offers
    (None: unbounded). A greater `priority` goes first. Where eligible, prices are at least 0. `hint` (int64, (O,), at
    least 0) is about what one unit of each offer is worth (µUSD · s per hour), where somebody knows: the search begins
    there. The answer's proof and bounds do not rest on it.
    """

    demand: IntVector
    priority: tuple[int, ...]
    seconds: IntVector
    price: Sequence[IntVector]
    eligible: Sequence[BoolVector]
    supply: IntVector
    provider: IntVector
    slots: tuple[int | None, ...]
    hint: IntVector | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Who takes what, and what is proven of it. Costs and prices are in µUSD · s per hour.

    `rows`, `offers`, `units` list the pairs with at least one unit, by (row, offer). `most` is at least what any
    assignment places, `floor` at most what placing as many units of each priority level costs; `certified` says that
    both are reached. `prices` (O,) is what one unit at the offer, with its provider's lease slot, is worth.
    """

    rows: IntVector
    offers: IntVector
    units: IntVector
    placed: int
    most: int
    cost: int
    floor: int
    certified: bool
    rounds: int
    prices: IntVector
    clearing: Clearing | None = None
