"""Unit costs of every pair of class and offer as solver integers, row by row; no flow and no choice of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.problem import BoolVector, IntVector

NEVER: Final = 2**61
"""The cost of a pair that does not exist: above every path of real costs, and two of them fit in 64 bits."""

Number = TypeVar("Number", np.int64, np.bool_)

MOST: Final = 2**63 - 1
"""What 64 bits hold."""

COST_RANGE: Final = 2**60
"""OR-Tools multiplies unit costs by the number of nodes within 64 bits; below this product it never refuses."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """``price[c] * seconds[c]`` in units of ``price_unit * second_unit``; NEVER if a class may not go.

    With `base` above 1 the offer's index is the last digit (``cost * base + index``), so that equal costs go by name.
    What is above `ceiling` counts as equally dear: an absurdly dear offer stays the last choice and cannot blur the
    differences among the others (None: nothing is).
    """

    seconds: Sequence[int]
    price: Sequence[IntVector]
    eligible: Sequence[BoolVector]
    base: int = 1
    price_unit: int = 1
    second_unit: int = 1
    ceiling: int | None = None

    @property
    def unit(self) -> int:
        """µUSD · s per hour of one solver unit, before the last digit."""
        return self.price_unit * self.second_unit

    def row(self, row: int) -> IntVector:
        """What one unit of a class costs at every offer, (O,)."""
        cost = self._exact(row, self.price[row], None)
        np.copyto(cost, NEVER, where=~self.eligible[row])
        return cost

    def at(self, row: int, offers: IntVector) -> IntVector:
        """The same at some offers, all of them eligible."""
        return self._exact(row, self.price[row][offers], offers)

    def _exact(self, row: int, price: IntVector, offers: IntVector | None) -> IntVector:
        seconds = self.seconds[row] // self.second_unit
        if self.price_unit > 1:
            price = price // self.price_unit
        if self.ceiling is not None and seconds:
            price = np.minimum(price, self.ceiling // seconds + 1)
        cost = price * seconds
        if self.ceiling is not None:
            cost = np.minimum(cost, self.ceiling)
        if self.base == 1:
            return cost
        return cost * self.base + (np.arange(len(price)) if offers is None else offers)

    def plain(self) -> Costs:
        """The same without the last digit."""
        return replace(self, base=1)

    def among(self, rows: IntVector, offers: IntVector) -> Costs:
        """The same for some classes and offers only; rows that were shared still are."""
        price = cut(self.price, rows, offers)
        eligible = cut(self.eligible, rows, offers)
        return replace(self, seconds=[self.seconds[row] for row in rows.tolist()], price=price, eligible=eligible)

    def free(self) -> Costs:
        """The same pairs at no cost: what remains is how many units find a place."""
        return Costs([0] * len(self.price), self.price, self.eligible)


def scaled(
    seconds: Sequence[int], price: Sequence[IntVector], eligible: Sequence[BoolVector], *, nodes: int, units: int
) -> Costs:
    """Costs as fine as a network of this many nodes allows, with the last digit where it fits."""
    ceiling = COST_RANGE // (nodes + 4)
    offers = len(price[0]) if price else 0
    base = units * offers + 1
    times = gcd(*seconds) or 1
    whole = Costs(seconds, price, eligible, second_unit=times)
    dearest = _dearest(whole) // times
    if dearest * base + offers <= ceiling:
        return replace(whole, base=base)
    prices = _common_price(whole)
    if dearest // prices * base + offers <= ceiling:
        return replace(whole, base=base, price_unit=prices)
    if dearest <= ceiling:
        return whole
    return replace(whole, price_unit=prices, ceiling=None if dearest // prices <= ceiling else ceiling)


def in_money(costs: IntVector, unit: int) -> IntVector:
    """FlowSolver units, at least 0, as µUSD · s per hour: what 64 bits cannot hold becomes the most that they can."""
    if unit > MOST:
        return np.where(costs > 0, MOST, 0)
    return np.minimum(costs, MOST // unit) * unit


def cut(vectors: Sequence[NDArray[Number]], rows: IntVector, offers: IntVector) -> list[NDArray[Number]]:
    """`vectors[row][offers]`, cut once for each distinct vector."""
    cut: dict[int, NDArray[Number]] = {}
    for row in rows.tolist():
        if id(vectors[row]) not in cut:
            cut[id(vectors[row])] = vectors[row][offers]
    return [cut[id(vectors[row])] for row in rows.tolist()]


def _dearest(costs: Costs) -> int:
    """The greatest cost of any pair, exactly."""
    known: dict[tuple[int, int], int] = {}
    most = 0
    for price, eligible, seconds in zip(costs.price, costs.eligible, costs.seconds, strict=True):
        key = (id(price), id(eligible))
        if key not in known:
            known[key] = int(price.max(where=eligible, initial=0))
        most = max(most, known[key] * seconds)
    return most


def _common_price(costs: Costs) -> int:
    """The greatest common divisor of all eligible prices; most rows end the search with their first few."""
    common = 0
    seen: set[tuple[int, int]] = set()
    for price, eligible in zip(costs.price, costs.eligible, strict=True):
        key = (id(price), id(eligible))
        if key not in seen and common != 1:
            seen.add(key)
            common = gcd(common, int(np.gcd.reduce(price[eligible])))
    return common or 1
