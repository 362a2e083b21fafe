"""Looking at all pairs of class and offer, row by row, at given prices: which are too cheap, which come close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fedgpu_operator.placement.flow.costs import NEVER, Costs
from fedgpu_operator.placement.flow.network import summed
from fedgpu_operator.placement.problem import BoolVector, IntVector

NO_PAIRS: Final = np.zeros(0, dtype=np.int64)

RIVALS: Final = 4
"""Classes kept per offer: the cheapest one of each of so many parts of the classes."""

RANK: Final = 8
"""How far down a sampled row one looks for the cost that its nearest offers stay below."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of class and offer, sorted by (row, offer), each once."""

    rows: IntVector
    offers: IntVector

    def __len__(self) -> int:
        return len(self.rows)

    def with_(self, more: Pairs) -> Pairs:
        """Together with some more."""
        bits = int(max(self.offers.max(initial=0), more.offers.max(initial=0))).bit_length()
        keys = np.append(self._keys(bits), more._keys(bits))
        # Sorting beats numpy's own unique, which hashes; a stable sort merges two sorted runs in one go.
        keys.sort(kind="stable")
        keys = keys[np.append(keys[:-1] != keys[1:], True)] if len(keys) else keys
        # Shifts take a tenth of the time of a division.
        return Pairs(keys >> bits, keys & ((1 << bits) - 1))

    def summed(self, rows: IntVector, offers: IntVector, units: IntVector) -> IntVector:
        """Units at some of these pairs, in any order and repeatedly, added up for each pair."""
        bits = int(self.offers.max(initial=0)).bit_length()
        at = np.searchsorted(self._keys(bits), (rows << bits) | offers)
        return summed(at, units, len(self))

    def _keys(self, bits: int) -> IntVector:
        """One number per pair, in the order of (row, offer); `bits` hold the greatest offer."""
        return (self.rows << bits) | self.offers


@dataclass(frozen=True, slots=True, eq=False)
class Pricing:
    """All pairs of the classes with demand and the offers that are open; one row of costs is in memory at a time."""

    costs: Costs
    asking: IntVector
    open: BoolVector

    def count(self) -> int:
        """How many there are."""
        known: dict[int, int] = {}
        for row in self.asking.tolist():
            mask = self.costs.eligible[row]
            if id(mask) not in known:
                known[id(mask)] = int(np.count_nonzero(mask & self.open))
        return sum(known[id(self.costs.eligible[row])] for row in self.asking.tolist())

    def pairs(self) -> Pairs:
        """Every one of them."""
        offers = [np.flatnonzero(self.costs.eligible[row] & self.open) for row in self.asking.tolist()]
        return Pairs(np.repeat(self.asking, [len(each) for each in offers]), np.concatenate([NO_PAIRS, *offers]))

    def best(self, prices: IntVector) -> IntVector:
        """The least cost plus price of each class, (C,); NEVER for those that may go nowhere."""
        asked = np.where(self.open, prices, NEVER)
        best = np.full(len(self.costs.price), NEVER, dtype=np.int64)
        for row in self.asking.tolist():
            best[row] = (self.costs.row(row) + asked).min(initial=NEVER)
        return best

    def bids(self, best: IntVector) -> IntVector:
        """The least prices at which no class of these `best` finds an offer too cheap, (O,)."""
        prices = np.zeros(len(self.open), dtype=np.int64)
        for row in self.asking[best[self.asking] < NEVER].tolist():
            np.maximum(prices, best[row] - self.costs.row(row), out=prices)
        return prices

    def below(self, prices: IntVector, limit: IntVector, size: IntVector) -> Pairs:
        """The pairs whose cost plus price is below the class's `limit` (C,), of each class about `size` (C,)."""
        asked = np.where(self.open, prices, NEVER)
        limits, numbers = limit.tolist(), size.tolist()
        rows: list[int] = []
        found: list[IntVector] = []
        for row in self.asking[limit[self.asking] > -NEVER].tolist():
            total = self.costs.row(row) + asked
            if int(total.min(initial=NEVER)) < limits[row]:
                rows.append(row)
                found.append(lowest(row, total, limits[row], numbers[row]))
        each = np.repeat(np.array(rows, dtype=np.int64), [len(offers) for offers in found])
        return Pairs(each, np.concatenate([NO_PAIRS, *found]))

    def rivals(self, prices: IntVector, best: IntVector) -> Pairs:
        """For each open offer some classes that come nearest to their `best` there: the candidates to take it."""
        nearest = np.full((RIVALS, len(self.open)), NEVER // 2, dtype=np.int64)
        who = np.full((RIVALS, len(self.open)), -1, dtype=np.int64)
        for at, row in enumerate(self.asking[best[self.asking] < NEVER].tolist()):
            part = at % RIVALS
            over = self.costs.row(row) + (prices - int(best[row]))
            closer = over < nearest[part]
            np.copyto(nearest[part], over, where=closer)
            np.copyto(who[part], row, where=closer)
        parts, offers = np.nonzero((who >= 0) & self.open)
        return Pairs(NO_PAIRS, NO_PAIRS).with_(Pairs(who[parts, offers], offers))


def lowest(row: int, total: IntVector, limit: int, size: int) -> IntVector:
    """Where the row is below the limit, about the `size` lowest; the very lowest always."""
    stride = max(1, min(size, len(total)) // RANK)
    sample = total[row % stride :: stride]
    rank = min(len(sample) - 1, size // stride)
    near = min(int(np.partition(sample, rank)[rank]), limit - 1)
    found = np.flatnonzero(total <= near)
    if len(found) <= 2 * size:
        return found
    equal = total[found] == near
    ties = found[equal]
    step = max(1, len(ties) // size)
    return np.sort(np.append(found[~equal], ties[row % step :: step]))
