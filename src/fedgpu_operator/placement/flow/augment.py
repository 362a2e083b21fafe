"""Units that still wait are let in by moving others aside, one shortest chain of moves at a time; no costs here.

A chain that starts at a waiting class goes to an offer it may use, on with a class that holds units there to an offer
that this one may use, and so on, until there is room or a class of lower priority gives way. Where there is none, the
classes and offers that were reached are a cut: they prove that nobody else can be placed (L. R. Ford, D. R. Fulkerson,
Maximal flow through a network, 1956).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from fedgpu_operator.placement.flow.network import UNCAPPED, Network, summed
from fedgpu_operator.placement.flow.units import Transport
from fedgpu_operator.placement.problem import BoolVector, IntVector

CHAINS: Final = 200
"""Chains after which a full solve is the quicker way."""


class Aside:
    """A flow on the pairs `rows`, `offers` with `units`, and how to let more in. `net` has offers for columns."""

    def __init__(self, t: Transport, net: Network, rows: IntVector, offers: IntVector, units: IntVector) -> None:
        self._t, self._net = t, net
        self.rows, self.offers, self.units = rows, offers, units.copy()
        self._waits = t.demand - summed(rows, units, len(t.demand))
        self._left = t.supply - summed(offers, units, len(t.supply))
        capped = net.group[offers] != UNCAPPED
        used = summed(net.group[offers][capped], units[capped], len(net.caps))
        # The last entry stands for offers without a cap: index -1.
        self._caps_left = np.append(net.caps - used, np.iinfo(np.int64).max)
        self._priority = np.array(t.priority, dtype=np.int64)
        self._by = np.zeros(len(t.supply), dtype=np.int64)
        self._door = np.zeros(len(t.supply), dtype=np.int64)
        self._via = np.zeros(len(t.demand), dtype=np.int64)
        self.full: BoolVector = np.zeros(len(t.supply), dtype=np.bool_)

    def let_in(self, chains: int = CHAINS) -> bool:
        """Place all that can be placed, the highest priority first; False where that takes more chains than these.

        After it `full` (O,) are the offers of the cut behind which units wait.
        """
        for level in np.unique(self._priority)[::-1].tolist():
            while True:
                ask = np.flatnonzero((self._waits > 0) & (self._priority == level)).tolist()
                found = self._search(ask, level)
                if found is None:
                    break
                if not chains:
                    return False
                chains -= 1
                self._push(*found)
        self._search(np.flatnonzero(self._waits > 0).tolist(), None)
        return True

    def _search(self, ask: list[int], level: int | None) -> tuple[int, int, int] | None:
        """The end of a shortest chain: (class, offer it goes to, -1) or (-1, -1, pair that gives way); else None."""
        queue = list(ask)
        reached = np.zeros(len(self._waits), dtype=np.bool_)
        reached[queue] = True
        self.full = np.zeros(len(self._left), dtype=np.bool_)
        self._door = np.full(len(self._left), -1, dtype=np.int64)
        self._via[queue] = -1
        room = np.minimum(self._left, self._caps_left[self._net.group])
        held = np.flatnonzero(self.units > 0)
        held_rows, held_offers = self.rows[held], self.offers[held]
        for row in queue:
            fresh = np.flatnonzero(self._t.eligible[row] & ~self.full)
            if not len(fresh):
                continue
            self.full[fresh] = True
            self._by[fresh] = row
            free = fresh[room[fresh] > 0]
            if len(free):
                return row, int(free[np.argmin(self._t.price[row][free])]), -1
            self._open_doors(fresh)
            out = np.flatnonzero((self._door[held_offers] >= 0) & ~reached[held_rows])
            rows, at = np.unique(held_rows[out], return_index=True)
            reached[rows] = True
            self._via[rows] = held[out[at]]
            lower = rows[self._priority[rows] < level] if level is not None else rows[:0]
            if len(lower):
                return -1, -1, int(self._via[lower[np.argmin(self._priority[lower])]])
            queue += rows.tolist()
        return None

    def _open_doors(self, fresh: IntVector) -> None:
        """Which offers a unit may leave so that one can enter at a fresh one, and where that is: `door`."""
        self._door[fresh] = fresh
        slots = fresh[self._left[fresh] > 0]
        for offer in slots.tolist():
            others = (self._net.group == self._net.group[offer]) & (self._door < 0)
            self._door[others] = offer

    def _push(self, row: int, offer: int, gone: int) -> None:
        """As many units along the chain as all of its moves allow."""
        leave: list[int] = []
        enter: list[tuple[int, int]] = []
        if gone >= 0:
            leave.append(gone)
            offer = int(self._door[self.offers[gone]])
            row = int(self._by[offer])
        enter.append((row, offer))
        while self._via[row] >= 0:
            pair = int(self._via[row])
            leave.append(pair)
            offer = int(self._door[self.offers[pair]])
            row = int(self._by[offer])
            enter.append((row, offer))
        units = min(int(self._waits[row]), *(int(self.units[pair]) for pair in leave), self._room(enter, leave))
        self._waits[row] -= units
        for pair in leave:
            self.units[pair] -= units
            self._change(int(self.offers[pair]), units)
        if gone >= 0:
            self._waits[self.rows[gone]] += units
        for _, into in enter:
            self._change(into, -units)
        self.rows = np.append(self.rows, [each for each, _ in enter])
        self.offers = np.append(self.offers, [into for _, into in enter])
        self.units = np.append(self.units, np.full(len(enter), units))

    def _room(self, enter: list[tuple[int, int]], leave: list[int]) -> int:
        """How many units can go along: by the offers, and by the capped providers, that more enter than leave."""
        offers = Counter([offer for _, offer in enter])
        offers.subtract([int(self.offers[pair]) for pair in leave])
        groups: Counter[int] = Counter()
        for offer, more in offers.items():
            groups[int(self._net.group[offer])] += more
        room = [int(self._left[offer]) // more for offer, more in offers.items() if more > 0]
        room += [int(self._caps_left[group]) // more for group, more in groups.items() if more > 0]
        return min([*room, int(self._waits.sum())])

    def _change(self, offer: int, units: int) -> None:
        self._left[offer] += units
        if self._net.group[offer] != UNCAPPED:
            self._caps_left[self._net.group[offer]] += units
