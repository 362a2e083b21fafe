"""Rows over the offers that outlive a pass: only what changed is computed again; no plugin is known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedgpu_operator.placement.context import BoolVector, IntVector
from fedgpu_operator.placement.table import Change, Fact, OfferTable, others

V = TypeVar("V", np.bool_, np.int64)

Reads = frozenset[Fact]
"""The facts of an offer that a row rests on."""


class Carry:
    """Computes rows over `table`, as far as they cannot be taken over from the table of the pass before."""

    def __init__(self, table: OfferTable, before: OfferTable | None) -> None:
        self.table = table
        self._change = None if before is None else Change(before, table)
        self._prices: dict[int, list[IntVector]] = {}
        self.moved: dict[int, tuple[IntVector, IntVector]] = {}
        """By id of a total: that of the pass before it was copied from, and the offers at which it is another."""
        self._masks: dict[bytes, BoolVector] = {}
        self._all = np.packbits(np.ones(len(table), dtype=np.bool_))

    def forget(self) -> None:
        """Let go of what only tells this pass from the one before."""
        self.moved = {}

    def computed(
        self, compute: Callable[[OfferTable], NDArray[V]], old: NDArray[V] | None, reads: Reads | None
    ) -> tuple[NDArray[V], Reads]:
        """The row, read-only, and what it rests on; `old` and its `reads` are those of the pass before, if any."""
        change = self._change
        if change is not None and old is not None and reads is not None:
            rows = change.rows(reads)
            if change.aligned and not len(rows):
                return old, reads
            if 2 * len(rows) < len(self.table):
                part = change.part(rows)
                more = part.watched()
                row = change.carried(old)
                row[rows] = compute(part)
                if others not in more:
                    return fixed(row), reads | more
        more = self.table.watched()
        return fixed(compute(self.table)), frozenset(more)

    def total(self, parts: Sequence[IntVector], old: IntVector | None, reads: Reads) -> IntVector:
        """The price in money plus all parts; `reads` are the facts of all of them, `old` is that of the pass before."""
        change = self._change
        if change is None or old is None:
            row = self.table.price.copy()
            for part in parts:
                row += part
            return self._same(row, hash(row.tobytes()))
        rows = change.rows(reads)
        if change.aligned and not len(rows):
            return old
        row, anew = change.carried(old), self.table.price[rows]
        for part in parts:
            anew += part[rows]
        row[rows] = anew
        total = self._same(row, hash((id(old), anew.tobytes())))
        if total is row and change.aligned:
            self.moved[id(row)] = old, rows[anew != old[rows]]
        return total

    def _same(self, row: IntVector, content: int) -> IntVector:
        """The one array with this content: solvers sort each array once. What comes by another way may stay apart."""
        alike = self._prices.setdefault(content, [])
        for known in alike:
            if np.array_equal(known, row):
                return known
        alike.append(fixed(row))
        return row

    def every(self, packed: Sequence[NDArray[np.uint8]]) -> BoolVector:
        """Where all of these masks hold, each with eight offers to the byte."""
        row = self._all.copy()
        for mask in packed:
            row &= mask
        name = row.tobytes()
        known = self._masks.get(name)
        if known is None:
            unpacked = np.unpackbits(row, count=len(self.table)).view(np.bool_)
            known = self._masks[name] = fixed(unpacked)
        return known


def fixed(row: NDArray[V]) -> NDArray[V]:
    """The row, from now on read-only."""
    row.flags.writeable = False
    return row
